from __future__ import annotations

import numpy as np
import pytest

from persona_assets.statistics.tidy import (
    TIDY_SCHEMA,
    RowTemplate,
    StatisticsError,
    TidyRow,
    finite_vector,
    generator,
    is_constant,
    tidy_frame,
    why_not_estimable,
)


def test_a_frame_has_the_schema_even_when_empty() -> None:
    assert dict(tidy_frame([]).schema) == TIDY_SCHEMA
    frame = tidy_frame([RowTemplate("scan", 12, "cosine", "source_rate")("spearman", 3, np.float64(0.5), p=0.1)])
    assert dict(frame.schema) == TIDY_SCHEMA
    assert frame.row(0) == ("scan", 3, "cosine", "source_rate", "spearman", 0.5, 0.1, 12, None, None, False, None)


@pytest.mark.parametrize(
    "broken", [{"estimate": np.nan}, {"estimate": np.inf}, {"estimate": 0.1, "p": 1.5}, {"low": np.nan, "estimate": 0.0}]
)
def test_a_row_never_carries_a_silent_number(broken: dict[str, float]) -> None:
    with pytest.raises(StatisticsError, match="scan/spearman"):
        TidyRow("scan", "spearman", **broken)


def test_a_missing_estimate_needs_a_note() -> None:
    with pytest.raises(StatisticsError, match="no note why"):
        TidyRow("scan", "spearman")
    assert TidyRow("scan", "spearman", note="not estimable: 2 observations").estimate is None


@pytest.mark.parametrize("bad", [[0.1, np.nan], [np.inf, 1.0], [[1.0, 2.0]], ["a", "b"]])
def test_bad_input_is_refused_by_name(bad: list[object]) -> None:
    with pytest.raises(StatisticsError, match="rate"):
        finite_vector(bad, "rate")


def test_the_error_says_where_the_bad_value_is() -> None:
    with pytest.raises(StatisticsError, match=r"1 of 3 values.*\(first at \(2,\)\)"):
        finite_vector([0.0, 1.0, np.nan], "rate")


def test_constancy_ignores_rounding_but_not_small_numbers() -> None:
    assert is_constant(np.array([0.1 + 0.2, 0.3]))
    assert not is_constant(np.array([1e-9, 2e-9]))
    assert why_not_estimable(4, x=np.arange(3.0)) == "not estimable: 3 observations, at least 4 needed"
    assert why_not_estimable(2, x=np.arange(3.0), y=np.ones(3)) == "not estimable: constant y"
    with pytest.raises(StatisticsError, match="x 3, y 2"):
        why_not_estimable(2, x=np.arange(3.0), y=np.ones(2))


def test_a_named_draw_repeats_and_differs_from_others() -> None:
    assert (generator("a", 1).random(5) == generator("a", 1).random(5)).all()
    assert (generator("a", 1).random(5) != generator("a", 2).random(5)).any()
