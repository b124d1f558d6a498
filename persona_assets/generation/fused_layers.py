"""The layers of a small Qwen2 model with few, large operations, for decoding on a CPU.

In a model of a few hundred thousand parameters most of a step of transformers' forward is bookkeeping. This is the same
arithmetic (RMSNorm, rotary positions, grouped-query attention, SwiGLU; Qwen2 technical report, 2024): queries, keys and
their rotated halves come out of one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from persona_assets.generation.engine import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Layer:
    """A decoder layer's weights, fused; linear weights are [out, in] as in torch."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class FusedLayers:
    """The weights of a Qwen2 model, laid out for decoding; partly a copy, so later training is not seen."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights.

        Args:
            model: a Qwen2ForCausalLM in float32 on the CPU, any adapter merged into it.

        Raises:
            EngineError: the model is something else; the message says what, and to use the module decoder.
        """
        import torch

        _check_supported(model)
        config: Any = model.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.mlp_size: int = config.intermediate_size
        self.epsilon: float = config.rms_norm_eps
        with torch.no_grad():
            causal_lm: Any = model
            body = causal_lm.model
            self.embedding: torch.Tensor = body.embed_tokens.weight.detach()
            self.final_norm: torch.Tensor = body.norm.weight.detach()
            self.unembedding: torch.Tensor = causal_lm.lm_head.weight.detach()
            self.layers = tuple(self._layer(layer) for layer in body.layers)
            self._frequencies: torch.Tensor = body.rotary_emb.inv_freq.detach().float()
            self._rotary_scale = float(body.rotary_emb.attention_scaling)

    def _layer(self, layer: Any) -> Layer:
        import torch

        attention, mlp = layer.self_attn, layer.mlp
        scale = self.head_size**-0.5  # on the queries, once, instead of on every score
        q, q_bias = attention.q_proj.weight * scale, attention.q_proj.bias * scale
        k, k_bias = attention.k_proj.weight, attention.k_proj.bias
        rotated = [self._rotate_half(part) for part in (q, k, q_bias, k_bias)]
        return Layer(
            input_norm=layer.input_layernorm.weight.detach(),
            qkv=torch.cat([q, k, rotated[0], rotated[1], attention.v_proj.weight]).contiguous(),
            qkv_bias=torch.cat([q_bias, k_bias, rotated[2], rotated[3], attention.v_proj.bias]).contiguous(),
            output=attention.o_proj.weight.detach(),
            mlp_norm=layer.post_attention_layernorm.weight.detach(),
            gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).contiguous(),
            down=mlp.down_proj.weight.detach(),
        )

    def _rotate_half(self, weight: torch.Tensor) -> torch.Tensor:
        """Rotate the outputs of a projection, (a, b) -> (-b, a) per head: RoPE needs no shuffling later."""
        import torch

        heads = weight.reshape(-1, 2, self.head_size // 2, *weight.shape[1:])
        return torch.stack([-heads[:, 1], heads[:, 0]], dim=1).reshape(weight.shape)

    def rotary_tables(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines, [positions, (heads + kv_heads) * head_size] each."""
        import torch

        angles = torch.outer(torch.arange(positions, dtype=torch.float32), self._frequencies)
        angles = torch.cat([angles, angles], dim=-1).repeat(1, self.heads + self.kv_heads)
        return angles.cos() * self._rotary_scale, angles.sin() * self._rotary_scale

    def project(
        self, layer: Layer, hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries, rotated keys, and values, [rows, heads * head_size] each."""
        from torch.nn.functional import linear, rms_norm

        normed = rms_norm(hidden, hidden.shape[-1:], layer.input_norm, self.epsilon)
        products = linear(normed, layer.qkv, layer.qkv_bias)
        width = cosines.shape[-1]
        rotated = (products[:, :width] * cosines).addcmul_(products[:, width : 2 * width], sines)
        query_width = self.heads * self.head_size
        return rotated[:, :query_width], rotated[:, query_width:], products[:, 2 * width :]

    def finish_layer(self, layer: Layer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add the attention's output and then the MLP's to rows of hidden states."""
        import torch
        from torch.nn.functional import linear, rms_norm, silu

        hidden = torch.addmm(hidden, attended, layer.output.t())
        normed = rms_norm(hidden, hidden.shape[-1:], layer.mlp_norm, self.epsilon)
        gate_up = linear(normed, layer.gate_up)
        gated = silu(gate_up[:, : self.mlp_size]).mul_(gate_up[:, self.mlp_size :])
        return torch.addmm(hidden, gated, layer.down.t())

    def read_out(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of rows of hidden states."""
        from torch.nn.functional import linear, rms_norm

        return linear(rms_norm(hidden, hidden.shape[-1:], self.final_norm, self.epsilon), self.unembedding)


def _check_supported(model: PreTrainedModel) -> None:
    import torch
    from transformers import Qwen2ForCausalLM

    def refuse(what: str) -> EngineError:
        return EngineError(f"decoder: 'shared_prefix' {what}; use decoder 'module'.")

    if not isinstance(model, Qwen2ForCausalLM):
        raise refuse(f"decodes Qwen2 models only, this is a {type(model).__name__}")
    wrapped = [name for name, module in model.named_modules() if type(module).__module__.startswith("peft.")]
    if wrapped:
        raise refuse(f"reads plain weights, but {wrapped[0]} carries an adapter that is not merged")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise refuse(f"works in float32 on a CPU, the model is {model.dtype} on {model.device.type}")
    config: Any = model.config
    if config.hidden_act != "silu":
        raise refuse(f"knows the activation silu, config.hidden_act is {config.hidden_act!r}")
    if config.rope_parameters["rope_type"] != "default":
        raise refuse(f"knows default rotary positions, config.rope_parameters are {config.rope_parameters}")
    if any(kind != "full_attention" for kind in config.layer_types):
        raise refuse("knows full attention, but some layers have a sliding window")
