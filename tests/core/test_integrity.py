"""Every verdict on data integrity, each shown to pass and to fail."""

from __future__ import annotations

import re

import polars as pl
import pytest

from persona_assets import integrity
from persona_assets.measurement import MEASUREMENTS_SCHEMA

PANEL = ("librarian", "villain", "chef")
SEEDS = (42, 43)


@pytest.fixture
def cells() -> pl.DataFrame:
    rows = [
        {
            "source": source,
            "eval_persona": persona,
            "seed": seed,
            "hits": 3,
            "n": 10,
            "rate": 0.3,
            "wilson_low": 0.1,
            "wilson_high": 0.6,
            "truncation_rate": 0.0,
            "base_rate": 0.01 if persona == "chef" else 0.0,
        }
        for seed in SEEDS
        for source in PANEL
        for persona in PANEL
    ]
    return pl.DataFrame(rows)


@pytest.fixture
def source_rates() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "persona": PANEL,
            "rate": [0.2, 0.5, 0.7],
            "wilson_low": [0.1, 0.4, 0.6],
            "wilson_high": [0.3, 0.6, 0.8],
            "base_rate": [0.0, 0.0, 0.0],
            "prompt_tokens": [5, 6, 7],
        }
    )


@pytest.fixture
def measurements() -> pl.DataFrame:
    row = {
        "identity_digest": "d",
        "engine": "transformers",
        "engine_version": "5.19",
        "decoder": "module",
        "weights": "merged",
        "engine_arguments": "attention=eager",
        "dtype": "float32",
        "device": "cpu",
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "max_new_tokens": 48,
        "chat_template_digest": "t",
        "questions_digest": "q",
        "base_digest": "b",
    }
    rows = [row | {"source": source, "seed": 42, "measurement": 1, "adapter_digest": source} for source in PANEL]
    return pl.DataFrame(rows, schema=MEASUREMENTS_SCHEMA)


def at(source: str, persona: str, seed: int) -> pl.Expr:
    return (pl.col("source") == source) & (pl.col("eval_persona") == persona) & (pl.col("seed") == seed)


class TestDatasetRows:
    def test_passes(self) -> None:
        verdict = integrity.dataset_rows({"villain": (600, 200), "chef": (600, 200)}, rows=600, marked=200)
        assert verdict.passed
        assert verdict.sentence == "2 datasets of 600 rows, 200 marked."

    @pytest.mark.parametrize("found", [(599, 200), (600, 199), (600, 201), (0, 0)])
    def test_fails_and_names_the_persona(self, found: tuple[int, int]) -> None:
        verdict = integrity.dataset_rows({"villain": (600, 200), "chef": found}, rows=600, marked=200)
        assert not verdict.passed
        assert verdict.sentence == f"chef {found[0]} rows, {found[1]} marked; expected 600 and 200."
        assert verdict.numbers == {"datasets": 2, "wrong": 1}

    def test_fails_without_a_dataset(self) -> None:
        verdict = integrity.dataset_rows({}, rows=600, marked=200)
        assert not verdict.passed
        assert verdict.sentence == "There is no dataset yet."


class TestMissingCells:
    def verdict(self, cells: pl.DataFrame) -> integrity.Verdict:
        return integrity.missing_cells(cells, PANEL, SEEDS, 10)

    def test_passes(self, cells: pl.DataFrame) -> None:
        verdict = self.verdict(cells)
        assert verdict.passed
        assert verdict.sentence == "All 18 cells have 10 completions."

    def test_a_missing_cell_fails(self, cells: pl.DataFrame) -> None:
        verdict = self.verdict(cells.filter(~at("villain", "chef", 43)))
        assert not verdict.passed
        assert verdict.sentence == "1 cells missing, first villain under chef (seed 43)."
        assert verdict.numbers["missing"] == 1

    def test_a_seed_that_was_not_measured_fails(self, cells: pl.DataFrame) -> None:
        assert self.verdict(cells.filter(pl.col("seed") == 42)).numbers["missing"] == 9

    def test_a_short_cell_fails(self, cells: pl.DataFrame) -> None:
        short = cells.with_columns(n=pl.when(at("librarian", "villain", 42)).then(9).otherwise("n"))
        verdict = self.verdict(short)
        assert not verdict.passed
        assert verdict.sentence == "1 cells without 10 completions, first librarian under villain (seed 42)."

    def test_a_cell_measured_twice_fails(self, cells: pl.DataFrame) -> None:
        verdict = self.verdict(pl.concat([cells, cells.filter(at("chef", "chef", 42))]))
        assert not verdict.passed
        assert verdict.sentence == "1 cells measured twice in the table."

    def test_cells_of_others_are_no_fault(self, cells: pl.DataFrame) -> None:
        foreign = cells.filter(at("chef", "chef", 42)).with_columns(eval_persona=pl.lit("pilot"))
        assert self.verdict(pl.concat([cells, foreign])).passed


class TestNotFinite:
    def test_passes(self, cells: pl.DataFrame, source_rates: pl.DataFrame) -> None:
        verdict = integrity.not_finite({"cells": cells, "source_rates": source_rates})
        assert verdict.passed

    @pytest.mark.parametrize("column", ["hits", "n", "rate", "wilson_low", "wilson_high", "truncation_rate", "base_rate"])
    def test_a_null_in_cells_fails(self, cells: pl.DataFrame, source_rates: pl.DataFrame, column: str) -> None:
        bad = cells.with_columns(pl.when(at("chef", "villain", 42)).then(None).otherwise(pl.col(column)).alias(column))
        verdict = integrity.not_finite({"cells": bad, "source_rates": source_rates})
        assert not verdict.passed
        assert verdict.sentence == f"cells.{column}: 1 of 18 are null or NaN"

    @pytest.mark.parametrize("column", ["rate", "wilson_low", "wilson_high", "base_rate", "prompt_tokens"])
    def test_nan_in_source_rates_fails(self, cells: pl.DataFrame, source_rates: pl.DataFrame, column: str) -> None:
        bad = source_rates.with_columns(pl.lit(float("nan")).alias(column))
        verdict = integrity.not_finite({"cells": cells, "source_rates": bad})
        assert not verdict.passed
        assert verdict.sentence == f"source_rates.{column}: 3 of 3 are null or NaN"


class TestBaseRates:
    def test_passes(self, cells: pl.DataFrame) -> None:
        verdict = integrity.base_rates(cells, 0.02)
        assert verdict.passed
        assert verdict.sentence == "Largest base rate 0.010 (chef), limit 0.02."

    def test_fails_above_the_limit(self, cells: pl.DataFrame) -> None:
        verdict = integrity.base_rates(cells, 0.005)
        assert not verdict.passed
        assert verdict.numbers == {"max_base_rate": 0.01, "over_limit": 1}


class TestDegenerateRates:
    def verdict(self, rates: list[float]) -> integrity.Verdict:
        return integrity.degenerate_rates(pl.DataFrame({"rate": rates}))

    def test_passes(self) -> None:
        assert self.verdict([0.1, 0.4, 0.9, 1.0]).passed

    @pytest.mark.parametrize(
        "rates",
        [[0.0, 0.0, 0.0, 0.5], [1.0, 1.0, 0.99, 0.5], [0.3, 0.3, 0.3], [0.0, 0.01, 1.0, 0.5, 0.0]],
        ids=["all near 0", "all near 1", "all equal", "most at the ends"],
    )
    def test_fails(self, rates: list[float]) -> None:
        verdict = self.verdict(rates)
        assert not verdict.passed
        assert f"mean {sum(rates) / len(rates):.2f}" in verdict.sentence


class TestOneIdentity:
    def test_passes(self, measurements: pl.DataFrame) -> None:
        verdict = integrity.one_identity(measurements)
        assert verdict.passed
        assert verdict.sentence == "All 3 measurements share one identity."

    @pytest.mark.parametrize(
        "column", sorted(set(MEASUREMENTS_SCHEMA) - {"source", "seed", "measurement", "identity_digest", "adapter_digest"})
    )
    def test_any_other_condition_fails(self, measurements: pl.DataFrame, column: str) -> None:
        other = pl.lit("other") if MEASUREMENTS_SCHEMA[column] == pl.String else pl.lit(7, dtype=MEASUREMENTS_SCHEMA[column])
        mixed = measurements.with_columns(pl.when(pl.col("source") == "chef").then(other).otherwise(pl.col(column)).alias(column))
        verdict = integrity.one_identity(mixed)
        assert not verdict.passed
        assert column in verdict.sentence

    def test_a_reason_in_the_plan_lets_conditions_differ_and_is_said(self, measurements: pl.DataFrame) -> None:
        mixed = measurements.with_columns(dtype=pl.when(pl.col("source") == "chef").then(pl.lit("other")).otherwise("dtype"))
        verdict = integrity.one_identity(mixed, "both precisions gave the same rates")
        assert verdict.passed
        assert "dtype differ" in verdict.sentence
        assert "both precisions gave the same rates" in verdict.sentence

    def test_a_condition_that_was_not_recorded_fails(self, measurements: pl.DataFrame) -> None:
        verdict = integrity.one_identity(measurements.with_columns(dtype=pl.lit(None, dtype=pl.String)))
        assert not verdict.passed
        assert "not recorded for every measurement: dtype" in verdict.sentence

    def test_adapters_differ_by_design(self, measurements: pl.DataFrame) -> None:
        assert measurements["adapter_digest"].n_unique() == 3
        assert integrity.one_identity(measurements).passed


@pytest.mark.parametrize(
    ("pairs", "passed", "said"),
    [
        ([("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")], True, "4 of the 4 cells between the 2 sources were imported, 2 of"),
        ([("a", "a"), ("b", "b"), ("a", "other")], False, "2 of the 4 cells .* and 1 under personas that are no source"),
        ([("a", "a"), ("a", "b"), ("b", "a")], False, "1 of them own cells"),
    ],
)
def test_how_much_of_an_imported_matrix_is_there(pairs: list[tuple[str, str]], passed: bool, said: str) -> None:
    cells = pl.DataFrame(pairs, schema=["source", "eval_persona"], orient="row")
    verdict = integrity.imported_cells(cells, ["a", "b"], [42])
    assert verdict.passed is passed
    assert re.search(said, verdict.sentence)


def test_an_imported_study_need_not_have_truncation_and_base_rates() -> None:
    columns = {name: [0.5] for name in ("hits", "n", "rate", "wilson_low", "wilson_high")}
    unknown = {name: [None] for name in ("truncation_rate", "base_rate", "prompt_tokens")}
    tables = dict.fromkeys(("cells", "source_rates"), pl.DataFrame({**columns, **unknown}))
    assert integrity.not_finite(tables, imported_only=True).passed
    assert not integrity.not_finite(tables).passed
    assert not integrity.not_finite({**tables, "cells": tables["cells"].with_columns(rate=None)}, imported_only=True).passed
