"""The tables of a write-up, by name, and how one is written."""

from __future__ import annotations

from collections.abc import Callable

from persona_assets.reporting.writeup import result_grids, study_grids
from persona_assets.reporting.writeup.binding import Book, Grid
from persona_assets.statistics.remeasurement import COMPARED

_TEXTUAL = {"text", "name", "code", "yes_no", "hit_miss", "p"}


def markdown(grid: Grid, book: Book, number: int) -> str:
    """Write a grid as a Markdown table, preceded by its marker."""
    headers = [column.header for column in grid.columns]
    rules = ["---" if column.format in _TEXTUAL else "--:" for column in grid.columns]
    rows = [[book.text(grid.cell(i, j)) for j in range(len(grid.columns))] for i in range(len(grid.rows))]
    lines = [headers, rules, *rows]
    return f"<!--grid {number}-->\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make(name: str, book: Book) -> Grid:
    """Build a grid by name."""
    return GRIDS[name](book)


GRIDS: dict[str, Callable[[Book], Grid]] = {
    "plan": study_grids.plan,
    "panel": study_grids.panel,
    "identity": study_grids.identity,
    "rates": result_grids.rates,
    "scan": result_grids.scan,
    "scan_versions": result_grids.scan_versions,
    "gates": result_grids.gates(True),
    "gates_signed": result_grids.gates(False),
    "power": result_grids.power(True),
    "power_rule": result_grids.power(False),
    "categories": result_grids.categories,
    "partials": result_grids.tidy(
        "regressions", {"family": "partial"}, registered=True, statistics=("partial_spearman", "partial_multi"), notes=True
    ),
    "partials_sensitivity": result_grids.tidy(
        "regressions",
        {"family": "partial"},
        registered=False,
        statistics=("partial_spearman_permutation", "partial_multi_permutation", "partial_reranked"),
    ),
    "baselines": result_grids.tidy("regressions", {"family": "baselines"}, registered=True, statistics=("spearman", "mrr_z")),
    "baselines_sensitivity": result_grids.tidy(
        "regressions",
        {"family": "baselines"},
        registered=False,
        statistics=("mrr_z_holm", "steiger_eq14_z", "williams_t2"),
    ),
    "probe_tests": result_grids.tidy("probe", {}, registered=False, statistics=("mrr_z", "steiger_eq14_z", "williams_t2")),
    "seeds": result_grids.tidy(
        "regressions",
        {"family": "seeds"},
        registered=False,
        statistics=("variance_sampling", "variance_seed", "variance_persona", "reliability_mean", "spearman_over_seeds"),
    ),
    "continuous": result_grids.tidy(
        "regressions",
        {"family": "continuous", "predictor": "cosine"},
        registered=False,
        statistics=("spearman", "spearman_holm", "pearson", "partial_spearman"),
    ),
    "source_scores": result_grids.source_scores,
    "retest": result_grids.tidy(
        "retest",
        {},
        registered=False,
        statistics=("reliability", "noise_sd", "source_sd", "noise_share", "tighter", "equivalent_completions"),
    ),
    "bystanders": result_grids.bystanders("spearman_naive", True, ("all", "strong", "weak")),
    "bystanders_mantel": result_grids.bystanders("spearman", False, result_grids.PAIRS),
    "drift": result_grids.drift("inherited_drift", "parent"),
    "drift_tests": result_grids.drift_tests(True),
    "drift_tests_sensitivity": result_grids.drift_tests(False),
    **{
        f"remeasurement_{earlier}": result_grids.drift("remeasurement_drift", "before", compared_with=earlier)
        for earlier in COMPARED
    },
    **{
        f"remeasurement_tests_{earlier}{suffix}": result_grids.drift_tests(
            registered, "remeasurement_tests", compared_with=earlier
        )
        for earlier in COMPARED
        for registered, suffix in ((True, ""), (False, "_sensitivity"))
    },
    "attenuation": result_grids.tidy("attenuation", {}, registered=True, statistics=("abs_rho", "length_partial")),
    "attenuation_sensitivity": result_grids.tidy(
        "attenuation", {}, registered=False, statistics=("subpanel_abs_rho", "ratio_abs_rho")
    ),
    "artifacts": study_grids.artifacts,
    "not_supported": study_grids.not_supported,
    "adapters": study_grids.adapters,
}
