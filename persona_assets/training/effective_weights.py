"""A faster forward pass for adapters about as wide as their layers: one product with W + s B A instead of three.

peft multiplies every token by W, A and B in turn, which is right where the rank is small beside the layer. In the
embedded model the rank is half the width of a layer; there it takes fewer operations to add the adapter to the
weights first, once for all tokens of a micro-batch. Same function, same gradients, other rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


class EffectiveWeightsDecoder:
    """Calls the decoder of a peft model with effective weights; gradients reach the LoRA weights through them."""

    def __init__(self, model: PeftModel, decoder: torch.nn.Module, adapter: str) -> None:
        """Switch peft's own forward off in favour of this one.

        Args:
            model: the peft model; its trainable parameters stay so.
            decoder: the part of it that is called, which must hold all its LoRA layers.
            adapter: name of the adapter.
        """
        self._decoder = decoder
        self._adapter = adapter
        self._layers = lora_layers(decoder)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.base_model.disable_adapter_layers()
        for parameter in trainable:  # peft freezes what it disables
            parameter.requires_grad_(True)

    def __call__(self, **inputs: Any) -> Any:
        """Return what the decoder returns for these inputs with the adapter in force."""
        import torch

        weights = {
            f"{name}.base_layer.weight": torch.addmm(
                layer.get_base_layer().weight,
                layer.lora_B[self._adapter].weight,
                layer.lora_A[self._adapter].weight,
                alpha=layer.scaling[self._adapter],
            )
            for name, layer in self._layers.items()
        }
        return torch.func.functional_call(self._decoder, weights, kwargs=inputs)


def effective_weights_pay(model: PeftModel, decoder: torch.nn.Module, adapter: str, rank: int, dropout: float) -> bool:
    """Say whether effective weights give the same result with fewer operations.

    For a layer of m inputs and n outputs a token costs peft 4 m n + 6 r (m + n) operations, forward and backward
    with W frozen; with effective weights it costs 6 m n. Dropout stands between the input and A alone, weights of
    less than float32 would round the update away, and layers outside the decoder would be left out.
    """
    import torch

    layers = list(lora_layers(decoder).values())
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    return (
        dropout == 0.0
        and len(layers) == len(lora_layers(model))
        and all(is_plain(layer, adapter) and layer.get_base_layer().weight.dtype == torch.float32 for layer in layers)
        and sum(m * n for m, n in sizes) < 3 * rank * sum(m + n for m, n in sizes)
    )


def is_plain(layer: LoraLayer, adapter: str) -> bool:
    """Say whether a LoRA layer computes (W + s B A) x + bias of a frozen W, and nothing else."""
    import torch
    from peft.tuners.lora import Linear

    base = layer.get_base_layer()
    return (
        type(layer) is Linear
        and type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and adapter not in layer.lora_variant
        and not layer.lora_bias[adapter]
    )


def lora_layers(module: torch.nn.Module) -> dict[str, LoraLayer]:
    """Return the LoRA layers under a module by name, in the module's order."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
