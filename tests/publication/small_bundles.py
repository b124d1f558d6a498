"""Bundles small enough for a test, of the files that a study has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from persona_assets.publication.bundles import Bundle, seal
from persona_assets.registry.reference import AdapterReference

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter_files(directory: Path, value: float = 1.0) -> dict[str, Path]:
    """What peft saves of one adapter."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    weights = {f"{LAYER}.lora_{side}.weight": np.full((2, 4), value, dtype=np.float32) for side in "AB"}
    save_file(weights, directory / "adapter_model.safetensors")
    return {file.name: file for file in sorted(directory.iterdir())}


def small_bundles(directory: Path, rate: float = 0.5) -> list[Bundle]:
    """An adapter and the tables of a study; another rate gives another table."""
    table = directory / "lake" / "cells.parquet"
    adapter = adapter_files(directory / "lake" / "adapter")
    pl.DataFrame({"source": ["librarian"], "rate": [rate]}).write_parquet(table)
    work = directory / "work"
    return [
        seal("embedded/adapter/seed42/librarian", "adapter", adapter, {"persona": "librarian", "seed": 42}, work),
        seal("embedded/n12/tables", "tables", {"source_rates/cells.parquet": table}, {"study": "n12"}, work),
    ]


class Flaky:
    """A destination whose pushes meet the given errors, in turn: before anything was sent, or (True) after the first bundle."""

    def __init__(self, inner: object, *errors: tuple[Exception, bool]) -> None:
        self.inner, self.errors = inner, list(errors)
        self.pushed: list[list[str]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def push(self, bundles: Sequence[Bundle]) -> Iterator[tuple[str, AdapterReference]]:
        self.pushed.append([bundle.name for bundle in bundles])
        pushing = self.inner.push(bundles)  # type: ignore[attr-defined]
        if self.errors:
            error, after_first = self.errors.pop(0)
            if after_first:
                yield next(pushing)
            raise error
        yield from pushing
