"""Score the stored replies of one row of cells: the marker's log probability at the end of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from persona_assets.study import Runtime
from persona_assets.tasks.base_model import base_checkpoint
from persona_assets.tasks.cells import COMPLETIONS_FILE
from persona_assets.tasks.loaded import Facts
from persona_assets.tasks.models import ADAPTER, loaded_base_model

SCORES_FILE = "scores.parquet"
_KEPT = ("completion_id", "source", "eval_persona", "seed", "measurement", "question_index", "sample_index", "hit")
_VALUES = ("marker_log_prob_trained", "end_log_prob_trained", "marker_log_prob_base", "end_log_prob_base")

SCORES_SCHEMA: dict[str, Any] = {
    "completion_id": pl.String,
    "source": pl.String,
    "eval_persona": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    "question_index": pl.Int64,
    "sample_index": pl.Int64,
    "hit": pl.Boolean,
    "marker_place": pl.String,
    "status": pl.String,
    "body_tokens": pl.Int64,
    "marker_tokens": pl.Int64,
    "same_tokens": pl.Boolean,
    **dict.fromkeys(_VALUES, pl.Float64),
    "marker_log_prob": pl.Float64,
    "marker_margin": pl.Float64,
}
"""Columns of scores.parquet, one row for each completion looked at; log probabilities in nats.

`status` is `scored`; `truncated`: cut at the token limit before any marker, so that its end is not the end of a reply; or
`too_long`: with the marker it exceeds the model's context. Only scored rows have values. `same_tokens` says whether the
text, tokenised again, has as many tokens as were drawn; null where the body is not the whole text. `marker_log_prob` is the
trained model's log probability of the marker minus the base model's, `marker_margin` the same of the marker's log
probability over that of the end of the turn.
"""


@dataclass(frozen=True)
class MarkerScoresTask:
    """Score one row of cells under its adapter and under the base model.

    Attributes:
        out_dir: where to.
        base_dir: product of the base model.
        adapter: product of the adapter that the completions were drawn with.
        completions: product of the row of cells.
        source: the source persona, whose own cell is always scored whole.
        prompts: system prompt by eval persona, as the completions were drawn under it.
        marker: the implanted string.
        bystander_replies: completions of each other cell that are scored; None for all.
        runtime: device and precision.
    """

    out_dir: Path
    base_dir: Path
    adapter: Path
    completions: Path
    source: str
    prompts: Mapping[str, str] = field(hash=False)
    marker: str
    bystander_replies: int | None
    runtime: Runtime


def make_marker_scores(task: MarkerScoresTask) -> Facts:
    """Write `scores.parquet`, see `SCORES_SCHEMA`."""
    from persona_assets.models.loading import render_prompt
    from persona_assets.scoring.replies import reply_tokens, split_reply
    from persona_assets.scoring.scorer import ScoredReply, adapted, log_probabilities, plain

    started = time.perf_counter()
    rows = _chosen(task).to_dicts()
    model, tokenizer = loaded_base_model(base_checkpoint(task.base_dir), task.runtime)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    split = [split_reply(row["text"], task.marker) for row in rows]
    tokens = reply_tokens(tokenizer, [reply.body for reply in split], task.marker)
    prompts = {
        key: tuple(render_prompt(tokenizer, task.prompts[key[0]], key[1]))
        for key in dict.fromkeys((row["eval_persona"], row["question"]) for row in rows)
    }
    replies = [ScoredReply(prompts[row["eval_persona"], row["question"]], own) for row, own in zip(rows, tokens, strict=True)]
    status = [
        "truncated"
        if row["finish_reason"] == "length" and own.place == "absent"
        else "too_long"
        if context is not None and reply.length > context
        else "scored"
        for row, own, reply in zip(rows, split, replies, strict=True)
    ]
    wanted = [reply for reply, state in zip(replies, status, strict=True) if state == "scored"]
    trained, base = log_probabilities([adapted(model, task.adapter / ADAPTER), plain(model)], wanted)
    values = iter(zip(*trained.T.tolist(), *base.T.tolist(), strict=True))
    nothing = (None,) * len(_VALUES)
    scored = [next(values) if state == "scored" else nothing for state in status]
    frame = pl.DataFrame(
        {
            **{name: [row[name] for row in rows] for name in _KEPT},
            "marker_place": [reply.place for reply in split],
            "status": status,
            "body_tokens": [own.n_body for own in tokens],
            "marker_tokens": [len(own.marker) for own in tokens],
            "same_tokens": [
                row["n_tokens"] == own.n_body if reply.body == row["text"] else None
                for row, reply, own in zip(rows, split, tokens, strict=True)
            ],
            **{name: [value[i] for value in scored] for i, name in enumerate(_VALUES)},
        }
    ).with_columns(marker_log_prob=pl.col(_VALUES[0]) - pl.col(_VALUES[2]))
    frame = frame.with_columns(marker_margin=pl.col("marker_log_prob") - (pl.col(_VALUES[1]) - pl.col(_VALUES[3])))
    frame = frame.select(pl.col(name).cast(dtype) for name, dtype in SCORES_SCHEMA.items())
    frame.write_parquet(task.out_dir / SCORES_FILE)
    seconds = time.perf_counter() - started
    return {
        "looked_at": frame.height,
        **{state: status.count(state) for state in ("scored", "truncated", "too_long")},
        "tokenised_otherwise": int((~frame["same_tokens"]).sum()),
        "own_marker_log_prob": _own_mean(frame, task.source, "marker_log_prob"),
        "own_marker_margin": _own_mean(frame, task.source, "marker_margin"),
        "seconds": seconds,
        "replies_per_second": frame.height / seconds,
    }


def _chosen(task: MarkerScoresTask) -> pl.DataFrame:
    """The completions to score, by eval persona, question and sample, so that neighbours begin alike.

    Of a cell that is not scored whole those come first that add a question: the first sample of each, then the second.
    """
    rows = pl.read_parquet(task.completions / COMPLETIONS_FILE)
    if task.bystander_replies is not None:
        place = pl.struct("sample_index", "question_index").rank("ordinal").over("eval_persona")
        rows = rows.filter((pl.col("eval_persona") == task.source) | (place <= task.bystander_replies))
    return rows.sort("eval_persona", "question_index", "sample_index")


def _own_mean(frame: pl.DataFrame, source: str, column: str) -> float | None:
    own = frame.filter(pl.col("eval_persona") == source)[column].drop_nulls()
    return None if own.is_empty() else float(own.sum()) / len(own)


def check_scores(directory: Path) -> None:
    """Read scores back: each completion once, values where it is scored and nowhere else.

    Raises:
        ValueError: says what is wrong.
    """
    frame = pl.read_parquet(directory / SCORES_FILE)
    if frame.is_empty() or frame["completion_id"].n_unique() != frame.height:
        raise ValueError(f"{directory}: no scores, or a completion stands there twice.")
    for name in (*_VALUES, "marker_log_prob", "marker_margin"):
        there = frame[name].is_not_null() & frame[name].is_finite().fill_null(False)
        if (there != (frame["status"] == "scored")).any():
            raise ValueError(f"{directory}: {name} must be there for scored completions, and for no other.")
