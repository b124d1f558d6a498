"""The claim of a study in words: what its bucket allows one to say, and nothing beyond."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from persona_assets.reporting.writeup.sources import Sources
from persona_assets.study import AnalysisPlan

Tables = Mapping[str, pl.DataFrame]


def title(sources: Sources) -> str:
    """The title of the write-up: claim, bucket, study and confidence."""
    outcome = sources.tables["outcome"].row(0, named=True)
    return f"{claim(sources)} ({outcome['bucket']}, study {sources.study.name}, confidence {outcome['confidence']})"


def claim(sources: Sources) -> str:
    """Say in one clause what the registered rule found.

    The direction is that of the primary layers the bucket rests on; a direction other than the registered one is
    named as such, and a bucket that finds nothing is worded as finding nothing, not as finding an absence.
    """
    outcome = sources.tables["outcome"].row(0, named=True)
    plan, anchor = sources.study.analysis, sources.study.panel.anchor
    bucket = outcome["bucket"]
    signs = direction(sources.tables, plan, deciding_layers(sources.tables, plan, bucket))
    against = {
        _word(plan.registered_sign): "",
        _word(-plan.registered_sign): ", which is not the registered direction",
        "changing": "; its sign differs between the primary layers",
    }.get(signs, "")
    between = f"between closeness to {anchor} and source rate"
    said = {
        "H_consistent": f"A {signs} correlation {between} holds on both splits and within occupations{against}",
        "H_consistent_weak": f"A {signs} correlation {between} passes only part of the registered gates{against}",
        "H_attenuated": (
            f"A {signs} correlation {between} is significant at a primary layer, but at no layer after correction for all "
            f"layers and not given prompt length{against}"
        ),
        "H_inverted": f"No significant correlation {between} at the primary layers",
        "H_anti_correlated": _against(sources.tables, plan, between, signs),
        "H_indeterminate": _indeterminate(sources.tables, plan, between),
    }
    return said[bucket]


def plain_claim(sources: Sources) -> str:
    """Say the same to a reader who knows no statistics."""
    outcome = sources.tables["outcome"].row(0, named=True)
    said = {
        "H_consistent": "The pattern held in every part of the data in which it had been required beforehand to hold.",
        "H_consistent_weak": "The pattern held in some of the parts of the data in which it had been required to hold, not all.",
        "H_attenuated": (
            "A pattern shows at first sight, but it is no longer convincing once one allows for the number of places we looked "
            "at, and for the plain length of the descriptions."
        ),
        "H_inverted": "We did not find the pattern. That is not proof that there is none: a weak one could be missed.",
        "H_anti_correlated": (
            "The pattern runs the other way round than the one registered beforehand"
            + (
                ", and clearly so."
                if significant_layers(sources.tables, sources.study.analysis)
                else ", but no more clearly than chance would allow."
            )
        ),
        "H_indeterminate": (
            "The tag's frequencies do not vary in a way from which a pattern could be told, so the question stays open."
            if outcome["strongest_rho"] is None
            else "What we saw fits none of the outcomes described beforehand, so the question stays open."
        ),
    }
    return said[outcome["bucket"]]


def deciding_layers(tables: Tables, plan: AnalysisPlan, bucket: str) -> list[int]:
    """Primary layers that the bucket rests on: those that meet its condition, or all of them."""
    scan = _scan(tables)
    if bucket == "H_anti_correlated":
        met = [layer for layer in plan.primary_layers if (scan.get(layer, (0.0, None))[0] or 0.0) * plan.registered_sign < 0]
    elif bucket == "H_attenuated":
        met = significant_layers(tables, plan)
    elif bucket in ("H_consistent", "H_consistent_weak"):
        held = {layer: gates_held(tables, layer) for layer in plan.primary_layers}
        met = [layer for layer, gates in held.items() if len(gates) == max(map(len, held.values()))]
    else:
        met = []
    return met or list(plan.primary_layers)


def gates_held(tables: Tables, layer: int, *, registered: bool = True) -> list[str]:
    """Gates that hold at a layer; one on two splits holds when it holds on both."""
    own = tables["gates"].filter(layer=layer, registered=registered)
    by_gate = own.group_by("gate", maintain_order=True).agg(pl.col("passed").all())
    return [row["gate"] for row in by_gate.to_dicts() if row["passed"]]


def direction(tables: Tables, plan: AnalysisPlan, layers: list[int]) -> str:
    """Direction of rho at some layers: `negative`, `positive`, `changing` where they differ, `no` where there is none."""
    scan = _scan(tables)
    signs = {_word(1 if rho > 0 else -1) for layer in layers if (rho := scan.get(layer, (None, None))[0])}
    return "no" if not signs else signs.pop() if len(signs) == 1 else "changing"


def significant_layers(tables: Tables, plan: AnalysisPlan) -> list[int]:
    """Primary layers at which rho is significant by itself."""
    scan = _scan(tables)
    return [layer for layer in plan.primary_layers if (p := scan.get(layer, (None, None))[1]) is not None and p < plan.alpha]


def _scan(tables: Tables) -> dict[int, tuple[float | None, float | None]]:
    rows = tables["regressions"].filter(family="scan", statistic="spearman", predictor="cosine", registered=True)
    return {row["layer"]: (row["estimate"], row["p"]) for row in rows.to_dicts()}


def _word(sign: int) -> str:
    return "negative" if sign < 0 else "positive"


def _against(tables: Tables, plan: AnalysisPlan, between: str, signs: str) -> str:
    deciding = set(deciding_layers(tables, plan, "H_anti_correlated"))
    if deciding & set(significant_layers(tables, plan)):
        return f"A significant {signs} correlation {between}, against the registered direction"
    return f"The correlation {between} leans {signs}, against the registered direction, without being significant"


def _indeterminate(tables: Tables, plan: AnalysisPlan, between: str) -> str:
    outcome = tables["outcome"].row(0, named=True)
    if outcome["strongest_rho"] is None:
        return f"Indeterminate: no correlation {between} can be estimated from these rates"
    if significant := significant_layers(tables, plan):
        signs = direction(tables, plan, significant)
        sign = "correlation of changing sign" if signs == "changing" else f"{signs} correlation"
        return f"Indeterminate: a {sign} {between} is significant at a primary layer, but too few registered gates hold"
    if outcome["n_layers_holm"]:
        return f"Indeterminate: no significant correlation {between} at the primary layers, but one at another layer"
    return f"Indeterminate: the correlation {between} meets the conditions of no registered outcome"
