"""Measurement identity: under which conditions a row of cells was sampled, as table rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from persona_assets.errors import LakeError
from persona_assets.hashing import sha256_json

# What an engine may not leave unsaid. Batch size and library versions under the engine are kept with the
# completions; they do not change what is being measured.
_ENGINE_COLUMNS = ("engine", "engine_version", "decoder", "weights", "engine_arguments", "dtype", "device")
_SAMPLING_COLUMNS = {
    "temperature": pl.Float64,
    "top_p": pl.Float64,
    "top_k": pl.Int64,
    "repetition_penalty": pl.Float64,
    "max_new_tokens": pl.Int64,
}
_DIGEST_COLUMNS = ("chat_template_digest", "questions_digest", "adapter_digest", "base_digest")

MEASUREMENTS_SCHEMA: dict[str, type[pl.DataType]] = {
    "source": pl.String,
    "seed": pl.Int64,
    "measurement": pl.Int64,
    "identity_digest": pl.String,
    **dict.fromkeys(_ENGINE_COLUMNS, pl.String),
    **_SAMPLING_COLUMNS,
    **dict.fromkeys(_DIGEST_COLUMNS, pl.String),
}


@dataclass(frozen=True)
class Measurement:
    """One row of cells and the identity its manifest recorded."""

    source: str
    seed: int
    number: int
    identity: Mapping[str, object]


def with_unknown(measurement: Measurement) -> Measurement:
    """Leave fields that were not recorded null: what an earlier version did not record is unknown, and equal to nothing.

    Only for comparing measurements; what a study's rates rest on has to be recorded in full.
    """
    absent = dict.fromkeys((*_ENGINE_COLUMNS, *_DIGEST_COLUMNS))
    sampling = measurement.identity.get("sampling")
    recorded = sampling if isinstance(sampling, Mapping) else {}
    known = {**absent, **measurement.identity, "sampling": {**dict.fromkeys(_SAMPLING_COLUMNS), **recorded}}
    return replace(measurement, identity=known)


def identity_row(measurement: Measurement) -> dict[str, object]:
    """Flatten a recorded identity into a row of the table `measurements`.

    Raises:
        LakeError: the identity lacks a field; nothing is put in its place.
    """
    recorded = measurement.identity
    sampling = recorded.get("sampling", {})
    assert isinstance(sampling, Mapping)
    absent = [name for name in (*_ENGINE_COLUMNS, *_DIGEST_COLUMNS) if name not in recorded]
    absent += [f"sampling.{name}" for name in _SAMPLING_COLUMNS if name not in sampling]
    if absent:
        raise LakeError(
            f"Measurement {measurement.number} of {measurement.source} (training seed {measurement.seed}) does not say "
            f"{', '.join(absent)}: an earlier version made it. Materialize eval_cells of {measurement.source} to measure again."
        )
    fields = {
        **{name: recorded[name] for name in (*_ENGINE_COLUMNS, *_DIGEST_COLUMNS)},
        **{name: sampling[name] for name in _SAMPLING_COLUMNS},
    }
    return {
        "source": measurement.source,
        "seed": measurement.seed,
        "measurement": measurement.number,
        "identity_digest": sha256_json(fields),
        **fields,
    }


def measurements_table(measurements: Sequence[Measurement]) -> pl.DataFrame:
    """Build the table `measurements`, one row for each measurement used."""
    return pl.DataFrame([identity_row(measurement) for measurement in measurements], schema=MEASUREMENTS_SCHEMA)
