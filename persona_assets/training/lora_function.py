"""The product of a LoRA layer, (W + s B A) x, in the precision of W, keeping for the backward pass only what it needs.

peft's own forward turns the input of every layer into float32, and with it the dropped-out copy, the update and the
sum: on a 7B model that moves more memory than the frozen weights themselves take time. Here inputs stay as they are,
only A and B are rounded for the product, as under automatic mixed precision; their master copies, gradients and
optimizer stay float32. In a float32 model it is peft's function, with the same gradients up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from persona_assets.training.effective_weights import lora_layers

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """Inputs [..., m], W [n, m], bias [n] or None, A [r, m], B [n, r]; W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        output = torch.nn.functional.linear(flat, weight, bias)
        kept, mask = torch.native_dropout(flat, dropout, True) if dropout else (flat, None)
        low = kept @ a.to(flat.dtype).t()
        output.addmm_(low, (b * scaling).to(flat.dtype).t())
        ctx.save_for_backward(flat, weight, a, b, low, mask)
        ctx.scaling, ctx.dropout, ctx.shape = scaling, dropout, inputs.shape
        return output.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        flat, weight, a, b, low, mask = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        low_gradient = gradient @ (b * ctx.scaling).to(flat.dtype)
        scale = 1.0 / (1.0 - ctx.dropout)
        kept = flat if mask is None else torch.ops.aten.native_dropout_backward(flat, mask, scale)
        a_gradient = (low_gradient.t() @ kept).to(a.dtype)
        b_gradient = (gradient.t() @ low).to(b.dtype) * ctx.scaling
        inputs_gradient = None
        if ctx.needs_input_grad[0]:
            inputs_gradient = gradient @ weight
            if mask is None:
                inputs_gradient.addmm_(low_gradient, a.to(flat.dtype))
            else:
                update = low_gradient @ a.to(flat.dtype)
                inputs_gradient += torch.ops.aten.native_dropout_backward(update, mask, scale)
            inputs_gradient = inputs_gradient.view(ctx.shape)
        return inputs_gradient, None, None, a_gradient, b_gradient, None, None


def use_lora_product(model: torch.nn.Module, adapter: str) -> int:
    """Let the plain LoRA layers of a peft model compute their product this way; the others keep peft's.

    Returns:
        Number of layers changed.
    """
    layers = [layer for layer in lora_layers(model).values() if _is_plain(layer, adapter)]
    for layer in layers:
        layer.forward = _Forward(layer, adapter)
    return len(layers)


class _Forward:
    """The forward of one layer; it draws dropout only while the layer trains."""

    def __init__(self, layer: LoraLayer, adapter: str) -> None:
        self._layer = layer
        self._adapter = adapter

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        layer, adapter = self._layer, self._adapter
        base, dropout = layer.get_base_layer(), layer.lora_dropout[adapter]
        rate = dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        output: torch.Tensor = _LoraProduct.apply(inputs, base.weight, base.bias, a, b, layer.scaling[adapter], rate)
        return output


def _is_plain(layer: LoraLayer, adapter: str) -> bool:
    from peft.tuners.lora import Linear

    base = layer.get_base_layer()
    return (
        type(layer) is Linear
        and type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and adapter not in layer.lora_variant
        and not layer.lora_bias[adapter]
    )
