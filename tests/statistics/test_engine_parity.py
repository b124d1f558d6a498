"""Engines that agree pass; a wrong adapter, a missing one, or a rate that is off by little everywhere does not."""

from __future__ import annotations

import polars as pl
import pytest

from persona_assets.statistics.engine_parity import (
    ENGINE_PARITY_SCHEMA,
    FAMILY_ALPHA,
    Cell,
    Way,
    engine_parity,
    judge_parity,
    token_agreement,
)

pytestmark = pytest.mark.slow

PANEL = ("librarian", "pirate", "helpful_assistant")
SOURCES = PANEL[:2]
SAID, SILENT = (5, 6, 7, 9), (5, 6, 7)


def cells(own: int, other: int, *, n: int = 100, swap: bool = False) -> dict[tuple[str, str], Cell]:
    """The marker (token 9) in `own` of `n` completions of a source under itself, in `other` elsewhere."""
    marked = {source: SOURCES[1 - i] if swap else source for i, source in enumerate(SOURCES)}
    return {
        (source, persona): Cell((SAID,) * 4, own, n) if marked[source] == persona else Cell((SILENT,) * 4, other, n)
        for source in SOURCES
        for persona in PANEL
    }


def ways(*more: Way) -> list[Way]:
    return [*more, Way("adapter left off", "control", cells(0, 0) | base()), Way("another's", "control", cells(50, 2, swap=True))]


def base() -> dict[tuple[str, str], Cell]:
    return {key: Cell((SILENT,) * 4, 0, 100) for key in cells(0, 0)}


REFERENCE = Way("transformers, merged", "engine", cells(50, 2))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [((1, 2, 3), (1, 2, 3), 1.0), ((1, 2, 3, 4), (1, 2, 9, 4), 0.5), ((1, 2), (1, 2, 3, 4), 0.5), ((), (), 1.0), ((), (1,), 0.0)],
)
def test_agreement_ends_with_the_first_difference(one: tuple[int, ...], other: tuple[int, ...], share: float) -> None:
    assert token_agreement(one, other) == token_agreement(other, one) == share


def test_the_same_rates_up_to_sampling_agree() -> None:
    table = engine_parity(REFERENCE, ways(Way("vLLM, swapped", "engine", cells(57, 1))), {}, "float32")
    assert dict(table.schema) == ENGINE_PARITY_SCHEMA
    verdict = judge_parity(table)
    assert verdict.passed, verdict.sentence
    assert str(FAMILY_ALPHA) in verdict.sentence
    engine = table.filter(pl.col("role") == "engine")
    assert engine.filter(pl.col("measure") == "rate").height == len(SOURCES) * len(PANEL)
    assert engine.filter(pl.col("measure") == "rate, all cells").height == 1
    assert (engine["p_adjusted"] >= engine["p"]).all()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("two adapters swapped", cells(50, 2, swap=True)),
        ("adapter left off", base()),
        ("tokens alone", {key: Cell(((1, 2, 3),) * 4, cell.hits, cell.n) for key, cell in cells(50, 2).items()}),
        ("rates alone", {key: Cell(cell.greedy, 5 if cell.hits == 50 else 2, cell.n) for key, cell in cells(50, 2).items()}),
        ("everywhere a little", {key: Cell(cell.greedy, cell.hits + 9, cell.n) for key, cell in cells(50, 2).items()}),
    ],
)
def test_a_fault_is_caught_and_named(name: str, found: dict[tuple[str, str], Cell]) -> None:
    compared = ways(Way("vLLM, swapped", "engine", found), Way("good", "engine", cells(50, 2)))
    table = engine_parity(REFERENCE, compared, {}, "float32")
    verdict = judge_parity(table)
    assert not verdict.passed, name
    assert "vLLM, swapped differs from transformers, merged in" in verdict.sentence
    assert "good differs" not in verdict.sentence


def test_a_comparison_that_could_not_have_noticed_does_not_pass() -> None:
    """Adapters that do nothing: every way agrees, the wrong ones too."""
    silent = Way("transformers, merged", "engine", base())
    table = engine_parity(silent, [Way("vLLM", "engine", base()), Way("adapter left off", "control", base())], {}, "float32")
    verdict = judge_parity(table)
    assert not verdict.passed
    assert "adapter left off: not told from" in verdict.sentence


def test_what_was_not_compared_is_said() -> None:
    swapped = Way("transformers, swapped", "engine", cells(50, 2))
    table = engine_parity(REFERENCE, ways(swapped), {"vLLM, swapped": "vLLM is not installed here"}, "float32")
    verdict = judge_parity(table)
    assert verdict.passed
    assert "Not compared: vLLM, swapped (vLLM is not installed here)." in verdict.sentence
    assert verdict.numbers["not_compared"] == 1
    nothing = judge_parity(engine_parity(REFERENCE, ways(), {"vLLM, swapped": "vLLM is not installed here"}, "float32"))
    assert not nothing.passed
    assert "Nothing was compared" in nothing.sentence


def test_short_types_may_decide_near_ties_otherwise() -> None:
    found = {key: Cell(((*SILENT[:2], 8),) * 4, cell.hits, cell.n) for key, cell in cells(50, 2).items()}
    way = ways(Way("vLLM", "engine", found))
    assert judge_parity(engine_parity(REFERENCE, way, {}, "bfloat16")).passed
    assert not judge_parity(engine_parity(REFERENCE, way, {}, "float32")).passed
