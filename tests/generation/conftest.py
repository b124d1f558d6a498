"""A tiny random Qwen2 as an ordinary checkpoint directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# pytest's importlib mode leaves the directory of a helper module out of the path.
sys.path.insert(0, str(Path(__file__).parent))

from tiny_qwen2 import build_model, build_tokenizer

from persona_assets.models.loading import load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep to one thread: sums do not depend on the machine then, and the machine is shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the tiny model and its tokenizer."""
    directory = tmp_path_factory.mktemp("tiny_checkpoint")
    tokenizer = build_tokenizer(directory)
    build_model(seed=7, vocabulary=len(tokenizer)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """Return the tiny tokenizer as loaded from its directory."""
    return load_tokenizer(checkpoint)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> PreTrainedModel:
    """Return the tiny model as loaded from its directory."""
    return load_model(checkpoint, device="cpu", dtype="float32")
