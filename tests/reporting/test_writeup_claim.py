"""The title claims what the bucket allows: direction from the numbers, nothing found where nothing was."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
from writeup_study import study_named

from persona_assets.reporting.writeup import Sources
from persona_assets.reporting.writeup.claim import claim, deciding_layers, plain_claim, title

ALL = ("A", "B", "C")


def sources(
    bucket: str,
    rho: dict[int, float | None],
    p: dict[int, float | None],
    held: dict[int, tuple[str, ...]] | None = None,
    confidence: str = "LOW",
) -> Sources:
    """Only what the claim looks at."""
    held = held or {}
    scan = [
        {
            "family": "scan",
            "statistic": "spearman",
            "predictor": "cosine",
            "registered": True,
            "layer": layer,
            "estimate": rho[layer],
            "p": p[layer],
        }
        for layer in rho
    ]
    gates = [
        {"layer": layer, "gate": gate, "split": split, "registered": True, "passed": gate in held.get(layer, ())}
        for layer in rho
        for gate in ALL
        for split in (("A", "B") if gate != "C" else (None,))
    ]
    strongest = max((abs(value) for value in rho.values() if value is not None), default=None)
    tables = {
        "regressions": pl.DataFrame(scan),
        "gates": pl.DataFrame(gates),
        "outcome": pl.DataFrame(
            {"bucket": [bucket], "confidence": [confidence], "strongest_rho": [strongest], "n_layers_holm": [1]}
        ),
    }
    return cast("Sources", SimpleNamespace(study=study_named("n12"), tables=tables))


NEGATIVE: dict[int, float | None] = {3: -0.4, 2: -0.3}
CLEAR: dict[int, float | None] = {3: 0.01, 2: 0.2}
UNCLEAR: dict[int, float | None] = {3: 0.4, 2: 0.5}


def test_consistent_names_the_direction_of_the_layer_that_passed() -> None:
    found = sources("H_consistent", {3: 0.1, 2: -0.7}, CLEAR, {2: ALL}, "HIGH")
    assert title(found) == (
        "A negative correlation between closeness to helpful_assistant and source rate holds on both splits and within "
        "occupations (H_consistent, study n12, confidence HIGH)"
    )


def test_consistent_against_the_registered_direction_says_so() -> None:
    assert "which is not the registered direction" in claim(sources("H_consistent", {3: 0.7, 2: -0.1}, CLEAR, {3: ALL}))


def test_layers_that_differ_in_sign_are_not_given_one() -> None:
    said = claim(sources("H_consistent_weak", {3: 0.7, 2: -0.7}, CLEAR, {3: ("A", "C"), 2: ("A", "C")}))
    assert "its sign differs between the primary layers" in said
    assert "not the registered" not in said


@pytest.mark.parametrize(
    ("bucket", "rho", "p", "must", "must_not"),
    [
        ("H_consistent_weak", NEGATIVE, CLEAR, "only part of the registered gates", "both splits"),
        ("H_attenuated", NEGATIVE, CLEAR, "at no layer after correction for all layers and not given prompt length", "holds"),
        ("H_inverted", NEGATIVE, UNCLEAR, "No significant correlation", "negative"),
        (
            "H_indeterminate",
            NEGATIVE,
            CLEAR,
            "is significant at a primary layer, but too few registered gates hold",
            "consistent",
        ),
        ("H_indeterminate", NEGATIVE, UNCLEAR, "no significant correlation between", "negative"),
        ("H_indeterminate", {3: None, 2: None}, {3: None, 2: None}, "no correlation", "negative"),
        ("H_anti_correlated", {3: 0.4, 2: -0.3}, CLEAR, "A significant positive correlation", "without being"),
        (
            "H_anti_correlated",
            {3: 0.4, 2: -0.3},
            UNCLEAR,
            "leans positive, against the registered direction, without being",
            "A sig",
        ),
    ],
)
def test_no_bucket_claims_too_much(
    bucket: str, rho: dict[int, float | None], p: dict[int, float | None], must: str, must_not: str
) -> None:
    found = sources(bucket, rho, p)
    assert must in claim(found)
    assert must_not not in claim(found)
    assert f"({bucket}, study n12, confidence LOW)" in title(found)
    assert plain_claim(found)
    assert not any(character.isdigit() for character in claim(found) + plain_claim(found))


def test_attenuated_takes_its_direction_from_the_significant_layer() -> None:
    assert claim(sources("H_attenuated", {3: 0.1, 2: -0.4}, {3: 0.6, 2: 0.01})).startswith("A negative correlation")
    assert claim(sources("H_attenuated", {3: 0.4, 2: -0.1}, {3: 0.01, 2: 0.6})).startswith("A positive correlation")


def test_plain_words_of_a_reversal_depend_on_its_significance() -> None:
    clear, unclear = (plain_claim(sources("H_anti_correlated", {3: 0.4, 2: 0.3}, p)) for p in (CLEAR, UNCLEAR))
    assert clear.endswith("and clearly so.")
    assert unclear.endswith("no more clearly than chance would allow.")


def test_a_gate_on_two_splits_holds_when_it_holds_on_both() -> None:
    found = sources("H_consistent_weak", NEGATIVE, CLEAR, {3: ("A", "C"), 2: ("C",)})
    once = found.tables["gates"].with_columns(
        passed=pl.when((pl.col("gate") == "A") & (pl.col("split") == "B")).then(pl.lit(False)).otherwise("passed")
    )
    plan = found.study.analysis
    assert deciding_layers(found.tables, plan, "H_consistent_weak") == [3]
    assert deciding_layers({**found.tables, "gates": once}, plan, "H_consistent_weak") == [3, 2]


def test_every_bucket_of_the_rule_has_a_claim() -> None:
    from typing import get_args

    from persona_assets.statistics.buckets import Bucket

    for bucket in get_args(Bucket):
        found: Any = sources(bucket, NEGATIVE, CLEAR)
        assert claim(found) and plain_claim(found)
        positive = replace(found.study, analysis=found.study.analysis.model_copy(update={"registered_sign": 1}))
        assert claim(cast("Sources", SimpleNamespace(study=positive, tables=found.tables)))
