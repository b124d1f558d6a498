"""Sizes against what transformers counts, and speeds against sums done by hand."""

from __future__ import annotations

import pytest

from persona_assets.capacity.shape import QWEN2_5_7B, DecoderShape

SMALL = DecoderShape(layers=3, hidden_size=32, mlp_size=48, heads=4, kv_heads=2, vocabulary_size=300)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied: bool) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    shape = DecoderShape.of_config(config)
    assert shape.tied == tied
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_an_adapter_is_as_large_as_pefts() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with torch.device("meta"):
        model = get_peft_model(Qwen2ForCausalLM(config), LoraConfig(r=8, target_modules=targets))
    assert SMALL.lora_parameters(8) == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_qwen_has_the_size_it_is_named_for() -> None:
    assert QWEN2_5_7B.parameters == 7_615_616_512
    assert QWEN2_5_7B.kv_bytes("bfloat16") == 28 * 2 * 4 * 128 * 2


def test_a_small_batch_is_bound_by_memory_and_a_large_one_by_operations() -> None:
    few, many = (QWEN2_5_7B.decoding_seconds(rows, 100, "bfloat16", 3e12, 8e14) for rows in (1, 4000))
    assert few == pytest.approx(2 * (QWEN2_5_7B.linear_parameters + QWEN2_5_7B.head_parameters) / 3e12, rel=0.01)
    operations = 2 * (QWEN2_5_7B.linear_parameters + QWEN2_5_7B.head_parameters) + 4 * 28 * 3584 * 100
    assert many == pytest.approx(4000 * operations / 8e14)


def test_training_operations_by_hand() -> None:
    linear = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert SMALL.linear_parameters == linear
    adapter = 3 * 4 * (2 * 64 + 2 * 48 + 3 * 80)
    attention = 4 * 3 * 32 * 5  # half of a row of ten
    expected = 4 * linear + 3.5 * attention + 6 * adapter + 4 * 300 * 32 * 0.5
    assert SMALL.training_operations(4, 10, 0.5) == expected
