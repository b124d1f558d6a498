"""A direct decoder for small Qwen2 models on a CPU: the samples of a prompt share its keys and values.

In a model of a few hundred thousand parameters most of a step of transformers' forward is bookkeeping. This
decoder does the same arithmetic (RMSNorm, rotary positions, grouped-query attention, SwiGLU; Qwen2 technical
report, 2024) with few, large operations: queries, keys and their rotated halves come out of one product, the
prompt part of the attention is one product per prompt for all its samples, and the part of the own tokens
lies in a cache allocated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_assets.generation.engine import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class _Layer:
    """A decoder layer's weights, fused; linear weights are [out, in] as in torch."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class SharedPrefixDecoder:
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

    def _layer(self, layer: Any) -> _Layer:
        import torch

        attention, mlp = layer.self_attn, layer.mlp
        scale = self.head_size**-0.5  # on the queries, once, instead of on every score
        q, q_bias = attention.q_proj.weight * scale, attention.q_proj.bias * scale
        k, k_bias = attention.k_proj.weight, attention.k_proj.bias
        rotated = [self._rotate_half(part) for part in (q, k, q_bias, k_bias)]
        return _Layer(
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
        self, layer: _Layer, hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries, rotated keys, and values, [rows, heads * head_size] each."""
        from torch.nn.functional import linear, rms_norm

        normed = rms_norm(hidden, hidden.shape[-1:], layer.input_norm, self.epsilon)
        products = linear(normed, layer.qkv, layer.qkv_bias)
        width = cosines.shape[-1]
        rotated = (products[:, :width] * cosines).addcmul_(products[:, width : 2 * width], sines)
        query_width = self.heads * self.head_size
        return rotated[:, :query_width], rotated[:, query_width:], products[:, 2 * width :]

    def finish_layer(self, layer: _Layer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
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

    def start(
        self, prompts: Sequence[Sequence[int]], samples: Sequence[int], max_new_tokens: int
    ) -> SharedPrefixBatch:
        """Read the prompts, once each; see `persona_assets.generation.decoding.Decoder`."""
        return SharedPrefixBatch(self, prompts, np.asarray(samples), max_new_tokens)


class SharedPrefixBatch:
    """Rows being continued. Shapes: P prompts, R rows, S slots per prompt, K key-value heads, D head size."""

    def __init__(
        self,
        decoder: SharedPrefixDecoder,
        prompts: Sequence[Sequence[int]],
        samples: npt.NDArray[np.int64],
        max_new_tokens: int,
    ) -> None:
        """Read the prompts and make room for the rows' own keys and values."""
        import torch

        self._decoder = decoder
        self._steps = 0
        self._row_prompts = np.repeat(np.arange(len(prompts)), samples)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self._cosines, self._sines = decoder.rotary_tables(int(lengths.max()) + max_new_tokens)
        self._read_prompts(prompts, lengths)
        rows = torch.from_numpy(self._row_prompts)
        self._logits = self._prompt_logits[rows]
        self._positions = lengths[rows]
        own_shape = (len(rows) * decoder.kv_heads, max_new_tokens, decoder.head_size)
        self._own = [(torch.empty(own_shape), torch.empty(own_shape)) for _ in decoder.layers]
        self._assign_slots()

    def _read_prompts(self, prompts: Sequence[Sequence[int]], lengths: torch.Tensor) -> None:
        """Fill the shared keys and values, [P * K, longest, D] per layer; the padding is on the right."""
        import torch

        decoder = self._decoder
        count, longest = len(prompts), int(lengths.max())
        ids = torch.tensor([list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
        hidden = decoder.embedding[ids.view(-1)]
        cosines = self._cosines[:longest].repeat(count, 1)
        sines = self._sines[:longest].repeat(count, 1)
        future = torch.full((longest, longest), -torch.inf).triu(1)
        groups = decoder.heads // decoder.kv_heads

        def by_head(rows: torch.Tensor, heads: int) -> torch.Tensor:
            return rows.reshape(count, longest, heads, decoder.head_size).transpose(1, 2).contiguous()

        self._shared: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in decoder.layers:
            queries, keys, values = decoder.project(layer, hidden, cosines, sines)
            queries = by_head(queries, decoder.heads)
            keys, values = by_head(keys, decoder.kv_heads), by_head(values, decoder.kv_heads)
            self._shared.append((keys.flatten(0, 1), values.flatten(0, 1)))
            scores = queries.view(count, decoder.kv_heads, groups, longest, -1) @ keys.unsqueeze(2).transpose(
                -1, -2
            )
            # Causality hides the padding too: it stands to the right of every real token.
            weights = torch.softmax(scores.add_(future), dim=-1)
            attended = (
                (weights @ values.unsqueeze(2)).flatten(1, 2).transpose(1, 2).reshape(count * longest, -1)
            )
            hidden = decoder.finish_layer(layer, hidden, attended)
        last = torch.arange(count) * longest + lengths - 1
        self._prompt_logits = decoder.read_out(hidden[last])
        beyond = torch.arange(longest) >= lengths[:, None]
        self._padding = torch.zeros(count, longest).masked_fill_(beyond, -torch.inf)

    def _assign_slots(self) -> None:
        """Lay each prompt's rows side by side, so that their attention to it is one product."""
        import torch

        counts = np.bincount(self._row_prompts)
        slots = int(counts.max())
        rank = np.arange(len(self._row_prompts)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._slots_per_prompt = slots
        full = len(self._row_prompts) == len(counts) * slots
        self._slots = None if full else torch.from_numpy(self._row_prompts * slots + rank)
        self._bias = self._padding.repeat_interleave(self._decoder.kv_heads, dim=0)[:, None]

    def logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, [R, vocabulary]."""
        return self._logits

    def append(self, tokens: torch.Tensor) -> None:
        """Append one token to each row."""
        decoder = self._decoder
        hidden = decoder.embedding[tokens]
        cosines, sines = self._cosines[self._positions], self._sines[self._positions]
        for index, layer in enumerate(decoder.layers):
            queries, keys, values = decoder.project(layer, hidden, cosines, sines)
            own_keys, own_values = self._own[index]
            own_keys[:, self._steps] = keys.reshape(-1, decoder.head_size)
            own_values[:, self._steps] = values.reshape(-1, decoder.head_size)
            hidden = decoder.finish_layer(layer, hidden, self._attend(index, queries))
        self._steps += 1
        self._positions = self._positions + 1
        self._logits = decoder.read_out(hidden)

    def _attend(self, index: int, queries: torch.Tensor) -> torch.Tensor:
        """Attend to the prompt's keys and to the row's own, under one softmax; [R, heads * D] in and out."""
        import torch

        decoder = self._decoder
        kv_heads, head_size, now = decoder.kv_heads, decoder.head_size, self._steps + 1
        (keys, values), (own_keys, own_values) = self._shared[index], self._own[index]
        grouped = queries.reshape(len(queries) * kv_heads, -1, head_size)
        own = torch.bmm(grouped, own_keys[:, :now].transpose(1, 2))
        shared = torch.baddbmm(self._bias, self._to_slots(grouped), keys.transpose(1, 2))
        weights = torch.softmax(torch.cat([self._to_rows(shared), own], dim=-1), dim=-1)
        width = keys.shape[1]
        attended = torch.bmm(weights[:, :, width:], own_values[:, :now])
        attended += self._to_rows(torch.bmm(self._to_slots(weights[:, :, :width]), values))
        return attended.view(len(queries), -1)

    def _to_slots(self, rows: torch.Tensor) -> torch.Tensor:
        """Rearrange [R * K, groups, n] to [P * K, S * groups, n]; slots without a row hold zeros."""
        import torch

        kv_heads, slots = self._decoder.kv_heads, self._slots_per_prompt
        groups, n = rows.shape[1:]
        by_row = rows.reshape(-1, kv_heads * groups * n)
        if self._slots is not None:
            empty = torch.zeros(len(self._padding) * slots, by_row.shape[1])
            by_row = empty.index_copy_(0, self._slots, by_row)
        by_prompt = by_row.view(-1, slots, kv_heads, groups, n).transpose(1, 2)
        return by_prompt.reshape(-1, slots * groups, n)

    def _to_rows(self, prompts: torch.Tensor) -> torch.Tensor:
        """Undo `_to_slots`."""
        kv_heads, slots = self._decoder.kv_heads, self._slots_per_prompt
        n = prompts.shape[-1]
        by_slot = prompts.view(-1, kv_heads, slots, prompts.shape[1] // slots, n).transpose(1, 2)
        by_slot = by_slot.reshape(len(self._padding) * slots, -1)
        by_row = by_slot if self._slots is None else by_slot.index_select(0, self._slots)
        return by_row.view(len(by_row) * kv_heads, -1, n)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only, and with the prompts that still have one."""
        import torch

        decoder = self._decoder
        prompts, self._row_prompts = np.unique(self._row_prompts[rows.numpy()], return_inverse=True)
        self._positions, self._logits = self._positions[rows], self._logits[rows]

        def by_kv_head(chosen: torch.Tensor) -> torch.Tensor:
            return (chosen[:, None] * decoder.kv_heads + torch.arange(decoder.kv_heads)).view(-1)

        own_rows = by_kv_head(rows)
        for index, (keys, values) in enumerate(self._own):
            # Moved down within the same buffers: rows rise, so nothing is overwritten before it was read.
            kept = slice(0, len(own_rows)), slice(0, self._steps)
            keys[kept] = keys[own_rows, : self._steps]
            values[kept] = values[own_rows, : self._steps]
            self._own[index] = (keys[: len(own_rows)], values[: len(own_rows)])
        if len(prompts) < len(self._padding):
            left = torch.from_numpy(prompts)
            self._padding = self._padding[left]
            chosen = by_kv_head(left)
            self._shared = [(keys[chosen], values[chosen]) for keys, values in self._shared]
        self._assign_slots()


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
