from __future__ import annotations

import polars as pl
import pytest

from persona_assets.statistics.identity import MixedIdentityError, check_identity
from persona_assets.statistics.tidy import StatisticsError

ROWS = pl.DataFrame(
    {
        "source": ["a", "b"],
        "seed": [42, 42],
        "measurement": [1, 2],
        "identity_digest": ["x", "y"],
        "adapter_digest": ["1", "2"],
        "engine": ["transformers", "transformers"],
        "top_p": [0.95, 0.95],
    }
)


def test_adapters_may_differ_conditions_may_not() -> None:
    check = check_identity(ROWS)
    assert (check.differing, check.unknown, check.note) == ((), (), None)
    assert len(set(check.digests)) == 1
    with pytest.raises(MixedIdentityError, match=r"top_p: 0.95, 1.0.*Re-evaluate"):
        check_identity(ROWS.with_columns(top_p=pl.Series([0.95, 1.0])))


def test_an_override_is_printed() -> None:
    check = check_identity(
        ROWS.with_columns(engine=pl.Series(["transformers", "vllm"])), override="same weights, checked by hand"
    )
    assert check.differing == ("engine",)
    assert check.note == "pooled although engine differ, by explicit override: same weights, checked by hand"


def test_what_was_not_recorded_is_said_and_is_a_difference_to_what_was() -> None:
    assert (
        check_identity(ROWS.with_columns(engine=pl.lit(None, dtype=pl.String))).note
        == "not recorded for every measurement: engine"
    )
    with pytest.raises(MixedIdentityError, match="transformers, unknown"):
        check_identity(ROWS.with_columns(engine=pl.Series(["transformers", None])))


def test_columns_without_a_condition_can_be_ignored() -> None:
    dated = ROWS.with_columns(measured_at=pl.Series(["monday", "tuesday"]))
    with pytest.raises(MixedIdentityError):
        check_identity(dated)
    assert check_identity(dated, ignore=["measured_at"]).note is None


def test_nothing_to_check_is_an_error() -> None:
    with pytest.raises(StatisticsError, match="empty"):
        check_identity(ROWS.head(0))
    with pytest.raises(StatisticsError, match="seed"):
        check_identity(ROWS.drop("seed"))
