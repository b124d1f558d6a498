"""What a tracker is told of a training and of an evaluation, read off the product in the lake."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from persona_assets.adapter_files import LOSS_CURVE_FILE
from persona_assets.hashing import sha256_json
from persona_assets.store import Manifest
from persona_assets.tracking import TrackedRun, Value

_TRAINING = ("first_loss", "final_loss", "trained_tokens", "seconds", "tokens_per_second")
_EVALUATION = ("source_rate", "bystander_rate", "hits", "completions", "truncated", "seconds", "tokens_per_second")


def tracked_training(manifest: Manifest, directory: Path) -> TrackedRun | None:
    """Describe the training of an adapter: its loss curve, step by step, and its speed; None when it was not trained here."""
    if not (directory / LOSS_CURVE_FILE).is_file():
        return None
    place = _place(manifest)
    curve = pl.read_parquet(directory / LOSS_CURVE_FILE).select("epoch", "loss", "learning_rate", "tokens")
    return TrackedRun(
        key=_key(manifest),
        name=f"adapter {place['persona']} seed {place['seed']}",
        group=manifest.path.split("/")[0],
        job="training",
        config={**place, "parameters": dict(manifest.parameters), "data_version": manifest.data_version},
        history=curve.to_dicts(),
        summary=_numbers(manifest, _TRAINING),
    )


def tracked_evaluation(manifest: Manifest, _: Path) -> TrackedRun:
    """Describe the measurement of a source's row of cells: source rate, bystander rate, truncation."""
    place = _place(manifest)
    profile, study, *_rest = manifest.path.split("/")
    identity = manifest.facts["identity"]
    assert isinstance(identity, dict)
    numbers = _numbers(manifest, _EVALUATION)
    summary = {**numbers, "truncation_rate": float(numbers["truncated"]) / float(numbers["completions"])}
    return TrackedRun(
        key=_key(manifest),
        name=f"{study} {place['source']} seed {place['seed']} measurement {place['measurement']}",
        group=f"{profile}/{study}",
        job="evaluation",
        config={**place, "identity": {name: value for name, value in identity.items() if name != "study_plan"}},
        history=[summary],
        summary=summary,
    )


def _key(manifest: Manifest) -> str:
    """Name what one run of Dagster made: made again, it is another run at the tracker."""
    return sha256_json([manifest.path, manifest.run_id, manifest.made_at])[:16]


def _place(manifest: Manifest) -> dict[str, str]:
    return dict(part.split("=", 1) for part in manifest.path.split("/") if "=" in part)


def _numbers(manifest: Manifest, names: tuple[str, ...]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name in names:
        value = manifest.facts[name]
        assert isinstance(value, int | float)
        found[name] = value
    return found
