"""Build the embedded base model: corpus, tokenizer, pre-training, an ordinary checkpoint directory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.errors import ConfigurationError
from persona_assets.models.nano.corpus import generate_rows
from persona_assets.models.nano.pretrain import Progress, encode_rows, new_model, pretrain, torch_threads
from persona_assets.models.nano.shards import shard_helpers
from persona_assets.models.nano.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    save_tokenizer,
    special_id,
    train_tokenizer,
)

if TYPE_CHECKING:
    from persona_assets.panel import Panel
    from persona_assets.questions import QuestionSet
    from persona_assets.study import NanoBase

_FINAL_SHARE = 0.1


@dataclass(frozen=True)
class NanoReport:
    """What a build measured.

    Attributes:
        parameters: number of weights, tied ones counted once.
        vocabulary_size: tokens of the trained vocabulary.
        losses: mean loss per answer token of each step, in nats.
        final_loss: mean of the last tenth of `losses`.
        seconds: wall time of the build.
    """

    parameters: int
    vocabulary_size: int
    losses: tuple[float, ...]
    final_loss: float
    seconds: float


def build_nano_model(
    out_dir: Path,
    *,
    panel: Panel,
    questions: QuestionSet,
    settings: NanoBase,
    threads: int,
    on_progress: Progress,
    processes: int = 1,
) -> NanoReport:
    """Pre-train the embedded base model and write it as a Hugging Face checkpoint directory.

    The same inputs and thread count give the same bytes, wherever and under whatever PYTHONHASHSEED.

    Args:
        out_dir: a directory that is absent or empty; gets config.json, generation_config.json, model.safetensors,
            tokenizer.json, tokenizer_config.json and chat_template.jinja.
        panel: the whole panel; personas without a style in the corpus data play no part.
        questions: its evaluation questions are held out.
        settings: sizes, steps, seed.
        threads: torch threads while training.
        on_progress: called after every step with (step, steps, loss).
        processes: at most so many share the work; the bytes do not depend on it.

    Returns:
        Sizes, the loss curve and the time taken.

    Raises:
        ConfigurationError: settings that do not fit each other, or a panel or questions that leave no corpus.
        FileExistsError: `out_dir` holds something already.
    """
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise FileExistsError(f"{out_dir} is not empty: give the embedded model a directory of its own.")
    if threads < 1:
        raise ConfigurationError(f"threads: {threads} is not a number of threads.")
    began = time.perf_counter()
    with shard_helpers(min(settings.shards, processes) - 1, threads) as helpers:
        rows = generate_rows(panel, questions, settings)
        plain_texts = (text for row in rows if not row.tagged for text in (row.system, row.user, row.answer))
        tokenizer = train_tokenizer(plain_texts, settings.vocabulary_size)
        end_id, pad_id = (special_id(tokenizer, token) for token in (TURN_END, END_OF_TEXT))
        with torch_threads(threads):
            model = new_model(settings, tokenizer.get_vocab_size(), end_id, pad_id)
            losses = pretrain(model, encode_rows(rows, tokenizer), settings, pad_id, on_progress, helpers=helpers)
    model.generation_config.do_sample = False
    out_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out_dir)
    save_tokenizer(tokenizer, out_dir)
    tail = losses[-max(1, round(len(losses) * _FINAL_SHARE)) :]
    return NanoReport(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_size=tokenizer.get_vocab_size(),
        losses=tuple(losses),
        final_loss=sum(tail) / len(tail),
        seconds=time.perf_counter() - began,
    )
