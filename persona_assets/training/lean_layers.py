"""What a decoder layer computes in training, with fewer and leaner operations than peft's and transformers' own modules.

peft's forward turns the input of every LoRA layer into float32, and with it the dropped-out copy, the update and the sum; norms
do alike. On a 7B model that moves more memory than the frozen weights take time, and fills a GPU of 80 GB at half the
micro-batch. Here inputs keep the precision of the base and only A and B are rounded for the product, as under automatic
mixed precision; their master copies, gradients and optimizer stay float32. In a float32 model it is the same function, with
the same gradients up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from persona_assets.training.effective_weights import is_plain, lora_layers

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


class LeanLayers:
    """The plain LoRA layers, norms and gated MLPs of a peft model, computing this way; others keep their own forward."""

    def __init__(self, model: torch.nn.Module, adapter: str) -> None:
        """Take over.

        Args:
            model: a peft model with frozen base weights.
            adapter: name of its adapter.
        """
        self._products = [_Product(layer, adapter) for layer in lora_layers(model).values() if is_plain(layer, adapter)]
        for product in self._products:
            product.layer.forward = product
        for module in model.modules():
            if _is_norm(module):
                module.forward = _norm_of(module)
            elif _is_gated_mlp(module):
                module.forward = _gated_mlp_of(module)
        self.refresh()

    def refresh(self) -> None:
        """Round the adapter's weights anew; to be called when they have changed."""
        half = [product for product in self._products if product.rounds]
        if half:
            with torch.no_grad():
                torch._foreach_copy_(
                    [tensor for product in half for tensor in product.rounded],
                    [tensor for product in half for tensor in product.masters],
                )


class _Product:
    """The forward of one LoRA layer; it draws dropout only while the layer trains."""

    def __init__(self, layer: LoraLayer, adapter: str) -> None:
        self.layer = layer
        self.base = layer.get_base_layer()
        self.masters = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
        self.rounds = self.base.weight.dtype != self.masters[0].dtype
        self.rounded = tuple(
            torch.empty_like(master, dtype=self.base.weight.dtype, requires_grad=False) if self.rounds else master.detach()
            for master in self.masters
        )
        self._scaling = layer.scaling[adapter]
        self._dropout = layer.lora_dropout[adapter]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        dropout = self._dropout
        rate = dropout.p if self.layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
        output: torch.Tensor = LoraProduct.apply(
            inputs, self.base.weight, self.base.bias, *self.masters, *self.rounded, self._scaling, rate
        )
        return output


class LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """(W + s B A) x of inputs [..., m], W [n, m], bias [n] or None, A [r, m] and B [n, r]; W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a_master: torch.Tensor,
        b_master: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        """Compute with the rounded A and B; gradients go to the masters."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        output = torch.nn.functional.linear(flat, weight, bias)
        kept, mask = torch.native_dropout(flat, dropout, True) if dropout else (flat, None)
        low = kept @ a.t()
        output.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, low, mask)
        ctx.scaling, ctx.dropout, ctx.shape, ctx.dtype = scaling, dropout, inputs.shape, a_master.dtype
        return output.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of inputs, A and B."""
        flat, weight, a, b, low, mask = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        low_gradient = gradient @ b  # without s, which is applied to the small results
        scale = 1.0 / (1.0 - ctx.dropout)
        kept = flat if mask is None else torch.ops.aten.native_dropout_backward(flat, mask, scale)
        a_gradient = (low_gradient.t() @ kept).to(ctx.dtype).mul_(ctx.scaling)
        b_gradient = (gradient.t() @ low).to(ctx.dtype).mul_(ctx.scaling)
        inputs_gradient = None
        if ctx.needs_input_grad[0]:
            inputs_gradient = gradient @ weight
            if mask is None:
                inputs_gradient.addmm_(low_gradient, a, alpha=ctx.scaling)
            else:
                update = low_gradient @ a
                inputs_gradient += torch.ops.aten.native_dropout_backward(update, mask, scale * ctx.scaling)
            inputs_gradient = inputs_gradient.view(ctx.shape)
        return inputs_gradient, None, None, a_gradient, b_gradient, None, None, None, None


class GatedProduct(torch.autograd.Function):  # type: ignore[misc]
    """silu(gate) * up, keeping the two inputs and nothing between."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Compute the product."""
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), torch.nn.functional.silu(gate).mul_(gradient)


def _is_norm(module: torch.nn.Module) -> bool:
    return type(module).__name__ in ("Qwen2RMSNorm", "LlamaRMSNorm")


def _norm_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    shape = module.weight.shape

    def norm(hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(hidden_states, shape, module.weight, module.variance_epsilon)

    return norm


def _is_gated_mlp(module: torch.nn.Module) -> bool:
    if type(module).__name__ not in ("Qwen2MLP", "LlamaMLP"):
        return False
    activation: Any = module.act_fn
    return isinstance(activation, torch.nn.SiLU) or type(activation).__name__ == "SiLUActivation"


def _gated_mlp_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def mlp(hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = module.gate_proj(hidden_states), module.up_proj(hidden_states)
        output: torch.Tensor = module.down_proj(GatedProduct.apply(gate, up))
        return output

    return mlp
