"""Where preregistered and sensitivity analyses disagree, found in the tables and said in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from persona_assets.statistics.remeasurement import comparisons as measurement_comparisons
from persona_assets.study import AnalysisPlan

Row = dict[str, Any]
Tables = Mapping[str, pl.DataFrame]
_VERSIONS = {
    "cosine_without_anchor": "without the anchor",
    "cosine_none": "with uncentred cosines",
    "cosine_none_without_anchor": "with uncentred cosines and without the anchor",
    "cosine_frozen": "with cosines centred on the frozen panel",
    "cosine_frozen_without_anchor": "with cosines centred on the frozen panel and without the anchor",
}
_EMITTERS = {"all": "over all pairs", "strong": "for strong emitters", "weak": "for weak emitters"}
_SUBSETS = {"without_trained_negatives": "without trained negatives", "without_anchor": "without the anchor"}
_TESTS = {
    "mrr_z_holm": "Holm's correction over all comparisons",
    "steiger_eq14_z": "Steiger's equation fourteen",
    "williams_t2": "Williams' test",
}
_PREDICTORS = {
    "neg_levenshtein": "negative Levenshtein distance",
    "token_jaccard": "token Jaccard",
    "bpe_jaccard": "BPE Jaccard",
}
_DRIFT = {
    "sign_two_sided_ties_dropped": "the two-sided sign test without ties",
    "sign_one_sided_ties_dropped": "the one-sided sign test without ties",
    "wilcoxon": "the Wilcoxon test",
    "mean_delta": "the interval of the mean change",
}
_VERDICT = {"drift": "found drift", "no_drift": "found no drift"}


@dataclass(frozen=True)
class Comparison:
    """A registered reading beside a sensitivity reading of the same question.

    Attributes:
        section: key of the result section that has to say so.
        layer: layer of both readings, None where there is none.
        registered: what the preregistered row says.
        version: how the sensitivity row asks; empty where `sensitivity` says it.
        sensitivity: what the sensitivity row says.
        agree: whether both say the same.
    """

    section: str
    layer: int | None
    registered: str
    version: str
    sensitivity: str
    agree: bool


OPENING = "Preregistered and sensitivity analyses disagree"


def disagreements(tables: Tables, plan: AnalysisPlan) -> list[Comparison]:
    """Compare every preregistered reading with its sensitivity versions.

    Correlations differ when one is significant and the other is not, or when both are and their signs differ; a
    statistic that is not estimable on one side is no disagreement, its own row says why.

    Returns:
        One for each registered reading and contrary reading; the versions that share a reading are listed in one.
    """
    groups: dict[tuple[str, int | None, str, str], list[str]] = {}
    for found in comparisons(tables, plan):
        if found.agree:
            continue
        groups.setdefault((found.section, found.layer, found.registered, found.sensitivity), []).append(found.version)
    return [
        Comparison(section, layer, registered, _listed(versions), sensitivity, agree=False)
        for (section, layer, registered, sensitivity), versions in groups.items()
    ]


def sentence(row: Mapping[str, Any], layer: str) -> str:
    """Say a row of the table `disagreements` in a sentence.

    Args:
        row: columns registered_reading, version and sensitivity_reading.
        layer: the layer as it stands in the text, empty where there is none.
    """
    at = f" at layer {layer}" if layer else ""
    version = f"{row['version']} " if row["version"] else ""
    return f"{OPENING}{at}: {row['registered_reading']}; {version}{row['sensitivity_reading']}."


def _listed(versions: list[str]) -> str:
    head, last = ", ".join(versions[:-1]), versions[-1]
    return f"{head} and {last}" if head else last


def comparisons(tables: Tables, plan: AnalysisPlan) -> list[Comparison]:
    """Set every preregistered reading beside its sensitivity versions, where both can be read."""
    return [
        *_scan(tables["regressions"], plan),
        *_gates(tables["gates"], tables["outcome"], plan),
        *_surface(tables["regressions"], plan),
        *_bystanders(tables["off_diagonal"], plan),
        *_drift(tables["drift_tests"]),
        *(
            found
            for compared, (_, tests) in measurement_comparisons(
                tables["remeasurement_drift"], tables["remeasurement_tests"]
            ).items()
            for found in _drift(tests, f" against the {compared} measurement")
        ),
    ]


def _rows(frame: pl.DataFrame, **equals: object) -> list[Row]:
    return frame.filter(**equals).to_dicts()


def reading(row: Mapping[str, Any], alpha: float) -> str | None:
    """Say in words what a correlation shows; None where it is not estimable."""
    if row["estimate"] is None or row["p"] is None:
        return None
    if row["p"] >= alpha:
        return "not significant"
    return f"{'negative' if row['estimate'] < 0 else 'positive'} and significant"


def _both(registered: Row, sensitivity: Row, alpha: float) -> tuple[str, str] | None:
    one, other = reading(registered, alpha), reading(sensitivity, alpha)
    return None if one is None or other is None else (one, other)


def _same(readings: tuple[str, str]) -> bool:
    return readings[0] == readings[1]


def _scan(regressions: pl.DataFrame, plan: AnalysisPlan) -> Iterator[Comparison]:
    for layer in plan.primary_layers:
        here: dict[str, object] = {"family": "scan", "statistic": "spearman", "layer": layer}
        for registered in _rows(regressions, **here, predictor="cosine", registered=True):
            for predictor, words in _VERSIONS.items():
                for row in _rows(regressions, **here, predictor=predictor, registered=False):
                    if found := _both(registered, row, plan.alpha):
                        yield Comparison(
                            "cosine",
                            layer,
                            f"the preregistered correlation is {found[0]}",
                            words,
                            f"it is {found[1]}",
                            _same(found),
                        )


def _gates(gates: pl.DataFrame, outcome: pl.DataFrame, plan: AnalysisPlan) -> Iterator[Comparison]:
    for layer in plan.primary_layers:
        for registered in _rows(gates, layer=layer, registered=True):
            for signed in _rows(gates, layer=layer, registered=False, gate=registered["gate"]):
                if signed["split"] == registered["split"]:
                    split = "" if signed["split"] is None else f" on split {signed['split']}"
                    yield Comparison(
                        "gates",
                        layer,
                        f"gate {signed['gate']}{split} {'holds' if registered['passed'] else 'does not hold'} as registered",
                        "",
                        f"it {'holds' if signed['passed'] else 'does not hold'} when the registered direction is required",
                        signed["passed"] == registered["passed"],
                    )
    row = outcome.row(0, named=True)
    yield Comparison(
        "gates",
        None,
        f"the registered rule gives {row['bucket']}",
        "with the registered direction required",
        f"it gives {row['bucket_signed']}",
        row["bucket"] == row["bucket_signed"],
    )


def _surface(regressions: pl.DataFrame, plan: AnalysisPlan) -> Iterator[Comparison]:
    for layer in plan.primary_layers:
        for statistic, given in (("partial_spearman", "prompt length"), ("partial_multi", "all covariates")):
            for registered in _rows(regressions, statistic=statistic, layer=layer, registered=True):
                for row in _rows(regressions, statistic=f"{statistic}_permutation", layer=layer, registered=False):
                    if found := _both(registered, row, plan.alpha):
                        yield Comparison(
                            "surface",
                            layer,
                            f"the partial correlation given {given} is {found[0]}",
                            "by its permutation test",
                            f"it is {found[1]}",
                            _same(found),
                        )
        for registered in _rows(regressions, family="baselines", statistic="mrr_z", layer=layer, registered=True):
            predictor = registered["predictor"].removeprefix("cosine - ")
            for statistic, words in _TESTS.items():
                for row in _rows(regressions, statistic=statistic, layer=layer, predictor=registered["predictor"]):
                    one, other = registered["p"], row["p"]
                    if one is not None and other is not None:
                        yield Comparison(
                            "surface",
                            layer,
                            f"the test against {_PREDICTORS.get(predictor, predictor)} is {_significant(one, plan.alpha)}",
                            f"by {words}",
                            f"it is {_significant(other, plan.alpha)}",
                            (one < plan.alpha) == (other < plan.alpha),
                        )


def _significant(p: float, alpha: float) -> str:
    return "significant" if p < alpha else "not significant"


def _bystanders(off_diagonal: pl.DataFrame, plan: AnalysisPlan) -> Iterator[Comparison]:
    for layer in plan.primary_layers:
        for name, where in _EMITTERS.items():
            here: dict[str, object] = {"layer": layer, "outcome": f"bystander_rate:{name}"}
            for registered in _rows(off_diagonal, **here, statistic="spearman_naive", registered=True):
                for row in _rows(off_diagonal, **here, statistic="spearman", registered=False):
                    if found := _both(registered, row, plan.alpha):
                        yield Comparison(
                            "bystanders",
                            layer,
                            f"{where} the correlation is {found[0]} by the ordinary p",
                            "by the valid permutation p",
                            f"it is {found[1]}",
                            _same(found),
                        )
        for registered in _rows(
            off_diagonal, layer=layer, outcome="bystander_rate:all", statistic="spearman_naive", registered=True
        ):
            for name, where in _SUBSETS.items():
                for row in _rows(off_diagonal, layer=layer, outcome=f"bystander_rate:{name}", statistic="spearman"):
                    if found := _both(registered, row, plan.alpha):
                        yield Comparison(
                            "bystanders",
                            layer,
                            f"over all pairs the correlation is {found[0]} by the ordinary p",
                            f"by the permutation p {where}",
                            f"it is {found[1]}",
                            _same(found),
                        )


def _drift(tests: pl.DataFrame, against: str = "") -> Iterator[Comparison]:
    for registered in _rows(tests, statistic="sign_drops", registered=True):
        for statistic, words in _DRIFT.items():
            for row in _rows(tests, statistic=statistic, registered=False):
                one, other = _VERDICT.get(registered["verdict"]), _VERDICT.get(row["verdict"])
                if one and other:
                    yield Comparison("drift", None, f"the preregistered sign test{against} {one}", words, other, one == other)
