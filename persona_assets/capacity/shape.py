"""Sizes of a decoder: parameters, operations for a token, bytes of its cache; computed from the shape alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class DecoderShape:
    """Shape of a Qwen2 (or Llama) decoder."""

    layers: int
    hidden_size: int
    mlp_size: int
    heads: int
    kv_heads: int
    vocabulary_size: int
    tied: bool = False

    @classmethod
    def of_config(cls, config: Any) -> DecoderShape:
        """Read the shape off a transformers configuration, or off one's attributes."""
        return cls(
            layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            mlp_size=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            vocabulary_size=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
        )

    @property
    def kv_size(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.hidden_size // self.heads * self.kv_heads

    @property
    def linear_sizes(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear layer of one decoder layer: q, k, v, o, gate, up, down."""
        hidden, kv, mlp = self.hidden_size, self.kv_size, self.mlp_size
        return (hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden)

    @property
    def linear_parameters(self) -> int:
        """Weights of all decoder layers' linear layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_sizes)

    @property
    def head_parameters(self) -> int:
        """Weights of the product that gives the logits."""
        return self.vocabulary_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights: linear layers, their biases on q, k and v, norms, embedding and head."""
        small = self.layers * (self.hidden_size + 2 * self.kv_size + 2 * self.hidden_size) + self.hidden_size
        return self.linear_parameters + small + self.head_parameters * (1 if self.tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Weights of an adapter on all seven linear layers."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linear_sizes)

    def kv_bytes(self, dtype: str) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * self.layers * self.kv_size * BYTES[dtype]

    def forward_operations(self, context: float) -> float:
        """Floating-point operations of one token through all layers, with so many tokens before it; without the head."""
        return 2 * self.linear_parameters + 4 * self.layers * self.hidden_size * context

    @property
    def head_operations(self) -> float:
        """Floating-point operations of one token's logits."""
        return 2 * self.head_parameters

    def training_operations(self, rank: int, row_length: float, completion_share: float) -> float:
        """Floating-point operations of one token of a training row, forward and backward.

        The base is frozen, so its backward pass is one product instead of two; the adapter has all three; logits are
        computed for the completion's tokens alone.

        Args:
            rank: of the adapter.
            row_length: mean tokens of a row; a token attends to half of them on average.
            completion_share: share of tokens that carry a loss.
        """
        attention = 4 * self.layers * self.hidden_size * row_length / 2
        # Attention's backward pass is two and a half times its forward pass: it computes the scores again.
        base = 2 * 2 * self.linear_parameters + 3.5 * attention
        return base + 6 * self.lora_parameters(rank) + 2 * self.head_operations * completion_share

    def decoding_seconds(self, rows: int, context: float, dtype: str, bandwidth: float, rate: float) -> float:
        """Least time of one decoding step: the longer of moving weights and caches once, and of the operations.

        Args:
            rows: completions that grow at once.
            context: mean tokens before each.
            dtype: precision of weights and caches.
            bandwidth: bytes per second of the device's memory.
            rate: floating-point operations per second.
        """
        moved = BYTES[dtype] * (self.linear_parameters + self.head_parameters) + rows * context * self.kv_bytes(dtype)
        operations = rows * (self.forward_operations(context) + self.head_operations)
        return max(moved / bandwidth, operations / rate)


QWEN2_5_7B = DecoderShape(layers=28, hidden_size=3584, mlp_size=18944, heads=28, kv_heads=4, vocabulary_size=152_064)
"""Qwen2.5-7B-Instruct, from its config.json."""
