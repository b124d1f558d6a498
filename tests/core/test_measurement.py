from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from persona_assets.errors import LakeError
from persona_assets.measurement import MEASUREMENTS_SCHEMA, Measurement, identity_row, measurements_table, with_unknown

SAMPLING = {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.0, "max_new_tokens": 48}
IDENTITY = {
    "engine": "transformers",
    "engine_version": "5.19",
    "decoder": "module",
    "weights": "merged",
    "engine_arguments": "attention=eager",
    "dtype": "float32",
    "device": "cpu",
    "batch_size": 64,
    "sampling": SAMPLING,
    "chat_template_digest": "t",
    "questions_digest": "q",
    "adapter_digest": "a",
    "base_digest": "b",
}
FIELDS = sorted(set(MEASUREMENTS_SCHEMA) - {"source", "seed", "measurement", "identity_digest"})


def changed(field: str, value: object) -> dict[str, Any]:
    if field in SAMPLING:
        return IDENTITY | {"sampling": SAMPLING | {field: value}}
    return IDENTITY | {field: value}


def without(field: str) -> dict[str, Any]:
    if field in SAMPLING:
        return IDENTITY | {"sampling": {name: value for name, value in SAMPLING.items() if name != field}}
    return {name: value for name, value in IDENTITY.items() if name != field}


def test_one_row_for_each_measurement() -> None:
    table = measurements_table([Measurement("villain", 42, 1, IDENTITY), Measurement("chef", 43, 2, IDENTITY)])
    assert dict(table.schema) == MEASUREMENTS_SCHEMA
    assert table.select("source", "seed", "measurement").rows() == [("villain", 42, 1), ("chef", 43, 2)]
    assert table.row(0, named=True)["max_new_tokens"] == 48
    assert table["identity_digest"].n_unique() == 1


def test_an_empty_table_has_its_columns() -> None:
    assert dict(measurements_table([]).schema) == MEASUREMENTS_SCHEMA


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_part_of_the_identity(field: str) -> None:
    digest = identity_row(Measurement("villain", 42, 1, IDENTITY))["identity_digest"]
    other = "other" if MEASUREMENTS_SCHEMA[field] == pl.String else 3
    assert identity_row(Measurement("villain", 42, 1, changed(field, other)))["identity_digest"] != digest


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_was_not_recorded_is_not_made_up(field: str) -> None:
    with pytest.raises(LakeError, match=rf"does not say (sampling\.)?{field}\b"):
        identity_row(Measurement("villain", 42, 1, without(field)))


def test_who_was_measured_and_how_fast_is_not_part_of_it() -> None:
    digest = identity_row(Measurement("villain", 42, 1, IDENTITY))["identity_digest"]
    other = identity_row(Measurement("chef", 43, 2, IDENTITY | {"batch_size": 8}))
    assert other["identity_digest"] == digest
    assert "batch_size" not in other


@pytest.mark.parametrize("field", FIELDS)
def test_what_was_not_recorded_can_be_left_unknown_for_a_comparison(field: str) -> None:
    known = Measurement("villain", 42, 1, IDENTITY)
    assert identity_row(with_unknown(known)) == identity_row(known)
    row = identity_row(with_unknown(Measurement("villain", 42, 1, without(field))))
    assert row[field] is None
    assert {name: value for name, value in row.items() if name not in (field, "identity_digest")} == {
        name: value for name, value in identity_row(known).items() if name not in (field, "identity_digest")
    }
