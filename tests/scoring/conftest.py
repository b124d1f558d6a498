"""A tiny random Qwen2 with its tokenizer, and two adapters for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))  # importlib mode leaves helper modules off the path

from tiny_qwen2 import build_model, build_tokenizer

from persona_assets.models.loading import load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

settings.register_profile("scoring", deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
settings.load_profile("scoring")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scoring_checkpoint")
    tokenizer = build_tokenizer(directory)
    build_model(seed=7, vocabulary=len(tokenizer), initializer_range=0.2).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(checkpoint)


@pytest.fixture
def model(checkpoint: Path) -> PreTrainedModel:
    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters with weights of their own."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
            wrapped = get_peft_model(load_model(checkpoint, device="cpu", dtype="float32"), config)
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:  # zero at the start, so that the adapter would change nothing
                    torch.nn.init.normal_(parameter, std=0.2)
        made.append(tmp_path_factory.mktemp("scoring_adapter") / str(seed))
        wrapped.save_pretrained(made[-1])
    return made[0], made[1]
