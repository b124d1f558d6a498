"""What a write-up is made from: the study, its tables, figures, completions and the digests of all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from persona_assets.hashing import sha256_file
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.study import Study

TABLES = (
    *("source_rates", "cells", "source_scores", "measurements", "geometry", "regressions", "probe", "off_diagonal", "power"),
    *("inherited_drift", "drift_tests", "remeasurement_drift", "remeasurement_tests", "measurement_history"),
    *("retest", "gates", "gate_details", "outcome", "attenuation"),
)
_SHOWN = ("completion_id", "source", "eval_persona", "seed", "question_index", "question", "sample_index", "text", "hit")


@dataclass(frozen=True)
class FigureFile:
    """A drawn figure with what its meta.json says.

    Attributes:
        name: file name without suffix.
        png: the picture.
        caption: as drawn.
        numbers: every number drawn.
        sha256: of the picture, as recorded.
    """

    name: str
    png: Path
    caption: str
    numbers: Mapping[str, Any]
    sha256: str

    @property
    def intact(self) -> bool:
        """Whether the picture is there and is the one that was recorded."""
        return self.png.is_file() and sha256_file(self.png) == self.sha256


@dataclass(frozen=True)
class CompletionFiles:
    """The completions of a study's cells, one Parquet file for each measurement.

    Attributes:
        files: by (source, training seed).
    """

    files: Mapping[tuple[str, int], Path]

    def cell(self, source: str, seed: int, eval_persona: str) -> list[dict[str, Any]]:
        """Read the completions of one cell, by question and sample."""
        if (source, seed) not in self.files:
            raise WriteUpError(f"There are no completions of source {source}, seed {seed}: evaluate it first.")
        frame = pl.scan_parquet(self.files[source, seed]).filter(pl.col("eval_persona") == eval_persona).select(_SHOWN)
        return frame.sort("question_index", "sample_index").collect().to_dicts()

    def by_id(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Find completions by id; those that do not exist are not in the answer."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, dict[str, Any]] = {}
        for path in self.files.values():
            left = [each for each in wanted if each not in found]
            if not left:
                break
            rows = pl.scan_parquet(path).filter(pl.col("completion_id").is_in(left)).select(_SHOWN).collect()
            found |= {row["completion_id"]: row for row in rows.to_dicts()}
        return found


@dataclass(frozen=True)
class Sources:
    """Everything that a write-up may speak of.

    Attributes:
        study: the pre-registered study.
        tables: the study's tables by name.
        figures: its figures by name, in the order in which they lie there.
        completions: its completions.
        artifacts: columns artifact, path, digest: the products that the write-up rests on, with their data versions.
        asset: key of the write-up, with slashes.
    """

    study: Study
    tables: Mapping[str, pl.DataFrame]
    figures: Mapping[str, FigureFile]
    completions: CompletionFiles
    artifacts: pl.DataFrame
    asset: str

    def __post_init__(self) -> None:
        """Refuse sources that lack a table.

        Raises:
            WriteUpError: the message names what is missing.
        """
        left_out = set() if self.study.imported is None else {"off_diagonal"} - set(self.study.imported.tables)
        if missing := [name for name in TABLES if name not in self.tables and name not in left_out]:
            raise WriteUpError(f"The write-up of {self.asset} lacks the tables {', '.join(missing)}: materialize them first.")

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Layers of the scan."""
        return tuple(sorted(self.tables["geometry"]["layer"].unique().to_list()))


def read_figures(directory: Path) -> dict[str, FigureFile]:
    """Read the meta.json of every figure in a directory.

    Raises:
        WriteUpError: a meta.json is not one of a figure.
    """
    found = {}
    for file in sorted(directory.glob("*.meta.json")):
        try:
            meta = json.loads(file.read_text(encoding="utf-8"))
            name = meta["figure"]
            digest = meta["files"][f"{name}.png"]["sha256"]
            found[name] = FigureFile(name, directory / f"{name}.png", meta["caption"], meta["numbers"], digest)
        except (json.JSONDecodeError, KeyError) as error:
            raise WriteUpError(f"{file} does not describe a figure ({error!r}): materialize the figures again.") from error
    return found
