"""The tables of a write-up: which cells stand in which row and column."""

from __future__ import annotations

from collections.abc import Callable

from persona_assets.reporting.writeup.binding import Book, Column, Grid, Where
from persona_assets.reporting.writeup.numbers import FORMATS
from persona_assets.statistics.remeasurement import COMPARED

_TEXTUAL = {"text", "name", "code", "yes_no", "hit_miss", "p"}
_SCAN: Where = {"family": "scan", "predictor": "cosine", "registered": True}


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


def _columns(table: str, *columns: tuple[str, str, str], **where: str | int | float | bool | None) -> list[Column]:
    for _, _, format_name in columns:
        assert format_name in FORMATS
    return [Column(header, table, where, column, format_name) for header, column, format_name in columns]


def _keys(book: Book, table: str, names: list[str], where: Where | None = None) -> list[Where]:
    return [{name: row[name] for name in names} for row in book.rows(table, where or {})]


def _plan(book: Book) -> Grid:
    fields = [row["field"] for row in book.rows("plan", {}) if not row["field"].rpartition(".")[2].isdigit()]
    columns = _columns("plan", ("Field of the study file", "field", "code"), ("Value", "text", "text"))
    return Grid(columns, [{"field": field} for field in fields])


def _panel(book: Book) -> Grid:
    columns = _columns(
        "panel",
        ("Persona", "persona", "code"),
        ("Category", "category", "name"),
        ("Cohort", "cohort", "text"),
        ("System prompt", "prompt", "text"),
    )
    return Grid(columns, _keys(book, "panel", ["persona"]))


def _identity(book: Book) -> Grid:
    columns = _columns(
        "measurements",
        ("Engine", "engine", "text"),
        ("Version", "engine_version", "text"),
        ("Decoder", "decoder", "text"),
        ("Weights", "weights", "text"),
        ("Arguments", "engine_arguments", "text"),
        ("Precision", "dtype", "text"),
        ("Device", "device", "text"),
        ("Temperature", "temperature", "general"),
        ("Top p", "top_p", "general"),
        ("Top k", "top_k", "general"),
        ("Repetition", "repetition_penalty", "general"),
        ("Tokens", "max_new_tokens", "int"),
    )
    seen: dict[tuple[object, ...], Where] = {}
    for row in book.rows("measurements", {}):
        seen.setdefault(
            tuple(row[column.column] for column in columns), {name: row[name] for name in ("source", "seed", "measurement")}
        )
    return Grid(columns, list(seen.values()))


def _rates(book: Book) -> Grid:
    columns = _columns(
        "source_rates",
        ("Persona", "persona", "code"),
        ("Category", "category", "name"),
        ("Cohort", "cohort", "text"),
        *([("Seed", "seed", "int")] if len(book.sources.study.seeds) > 1 else []),
        ("Hits", "hits", "int"),
        ("n", "n", "int"),
        ("Rate", "rate", "rate"),
        ("Wilson", "wilson_low|wilson_high", "interval2"),
        ("By question", "cluster_low|cluster_high", "interval2"),
        ("Base rate", "base_rate", "rate"),
        ("Truncated", "truncation_rate", "percent"),
    )
    return Grid(columns, _keys(book, "source_rates", ["persona", "seed"]))


def _source_scores(book: Book) -> Grid:
    columns = _columns(
        "source_scores",
        ("Persona", "persona", "code"),
        *([("Seed", "seed", "int")] if len(book.sources.study.seeds) > 1 else []),
        ("Scored", "n_scored", "int"),
        ("log P(marker)", "marker_log_prob", "d2"),
        ("Interval", "marker_log_prob_low|marker_log_prob_high", "interval2"),
        ("Margin", "marker_margin", "d2"),
        ("Interval of the margin", "marker_margin_low|marker_margin_high", "interval2"),
        ("P(marker)", "marker_prob", "rate"),
        ("Rate", "rate", "rate"),
    )
    return Grid(columns, _keys(book, "source_scores", ["persona", "seed"]))


def _scan(book: Book) -> Grid:
    spearman: Where = {**_SCAN, "statistic": "spearman"}
    columns = [
        *_columns("regressions", ("Layer", "layer", "int"), ("ρ", "estimate", "rho"), **spearman),
        *_columns("regressions", ("Interval of ρ", "low|high", "interval3"), ("p", "p", "p_cell"), **spearman),
        *_columns("regressions", ("Holm p", "p", "p_cell"), **{**_SCAN, "statistic": "spearman_holm"}),
        *_columns("regressions", ("r", "estimate", "rho"), ("p of r", "p", "p_cell"), **{**_SCAN, "statistic": "pearson"}),
        *_columns("regressions", ("r, one left out", "low|high", "interval3"), **{**_SCAN, "statistic": "loo_pearson"}),
    ]
    return Grid(columns, _keys(book, "regressions", ["layer"], spearman))


def _scan_versions(book: Book) -> Grid:
    columns = _columns(
        "regressions",
        ("Layer", "layer", "int"),
        ("Version of the cosine", "predictor", "name"),
        ("ρ", "estimate", "rho"),
        ("Interval of ρ", "low|high", "interval3"),
        ("p", "p", "p_cell"),
        ("n", "n", "int"),
        family="scan",
        statistic="spearman",
        registered=False,
    )
    found = book.rows("regressions", {"family": "scan", "statistic": "spearman", "registered": False})
    layers = book.sources.study.analysis.primary_layers
    rows = [{"layer": layer, "predictor": row["predictor"]} for layer in layers for row in found if row["layer"] == layer]
    return Grid(columns, rows)


def _gates(registered: bool) -> Callable[[Book], Grid]:
    def build(book: Book) -> Grid:
        columns = _columns(
            "gates",
            ("Gate", "gate", "text"),
            ("Split", "split", "text"),
            ("Layer", "layer", "int"),
            ("Observed", "observed", "d3"),
            ("Threshold", "threshold", "d3"),
            ("p", "p", "p_cell"),
            ("n", "n", "int"),
            ("Holds", "passed", "yes_no"),
            registered=registered,
        )
        return Grid(columns, _keys(book, "gates", ["gate", "split", "layer"], {"registered": registered}))

    return build


def _power(registered: bool) -> Callable[[Book], Grid]:
    def build(book: Book) -> Grid:
        columns = _columns(
            "power",
            ("Population ρ", "population_rho", "d2"),
            ("What has to pass", "quantity", "name"),
            ("Probability", "probability", "percent"),
            ("Interval of the simulation", "low|high", "interval3"),
            ("Draws", "draws", "int"),
            registered=registered,
        )
        return Grid(columns, _keys(book, "power", ["population_rho", "quantity"], {"registered": registered}))

    return build


def _categories(book: Book) -> Grid:
    columns = _columns(
        "regressions",
        ("Layer", "layer", "int"),
        ("Personas", "outcome", "name"),
        ("ρ", "estimate", "rho"),
        ("p", "p", "p_cell"),
        ("n", "n", "int"),
        family="within_category",
        statistic="spearman",
        registered=True,
    )
    found = book.rows("regressions", {"family": "within_category", "statistic": "spearman", "registered": True})
    layers = book.sources.study.analysis.primary_layers
    return Grid(columns, [{"layer": la, "outcome": row["outcome"]} for la in layers for row in found if row["layer"] == la])


def _tidy(
    table: str, where: Where, *, registered: bool, statistics: tuple[str, ...], notes: bool = False
) -> Callable[[Book], Grid]:
    """Rows of a tidy table at the primary layers, or without a layer, in the order of the table."""

    def build(book: Book) -> Grid:
        layers = (*book.sources.study.analysis.primary_layers, None)
        found = [
            row
            for row in book.rows(table, {**where, "registered": registered})
            if row["statistic"] in statistics and row["layer"] in layers
        ]
        shown = {
            "layer": any(row["layer"] is not None for row in found),
            "low": any(row["low"] is not None for row in found),
            "predictor": len({row["predictor"] for row in found}) > 1,
            "outcome": len({row["outcome"] for row in found}) > 1,
        }
        columns = _columns(
            table,
            *([("Layer", "layer", "int")] if shown["layer"] else []),
            ("Statistic", "statistic", "name"),
            *([("Predictor", "predictor", "name")] if shown["predictor"] else []),
            *([("Of", "outcome", "name")] if shown["outcome"] else []),
            ("Estimate", "estimate", "d3"),
            *([("Interval", "low|high", "interval3")] if shown["low"] else []),
            ("p", "p", "p_cell"),
            ("n", "n", "int"),
            *([("Note", "note", "text")] if notes else []),
            registered=registered,
            **where,
        )
        keys = ("statistic", "layer", "predictor", "outcome", "n")
        return Grid(columns, [{name: row[name] for name in keys} for row in sorted(found, key=lambda row: _place(row, layers))])

    return build


def _place(row: dict[str, object], layers: tuple[int | None, ...]) -> int:
    assert row["layer"] is None or isinstance(row["layer"], int)
    return layers.index(row["layer"])


def _drift_tests(registered: bool, table: str = "drift_tests", **compared: str) -> Callable[[Book], Grid]:
    def build(book: Book) -> Grid:
        columns = _columns(
            table,
            ("Test", "statistic", "name"),
            ("Estimate", "estimate", "d3"),
            ("Interval", "low|high", "interval3"),
            ("p", "p", "p_cell"),
            ("n", "n", "int"),
            ("Verdict", "verdict", "name"),
            registered=registered,
            **compared,
        )
        return Grid(columns, _keys(book, table, ["statistic"], {"registered": registered, **compared}))

    return build


def _drift(table: str, before: str, **compared: str) -> Callable[[Book], Grid]:
    """Rates before and now, of a table whose columns call what was before by that name."""

    def build(book: Book) -> Grid:
        numbered = "measurement_now" in book.tables[table].columns
        columns = _columns(
            table,
            ("Persona", "persona", "code"),
            *([("Seed", "seed", "int")] if len(book.sources.study.seeds) > 1 else []),
            *([(f"Measurement, {before}", "measurement_before", "int")] if numbered else []),
            (f"Rate, {before}", f"rate_{before}", "rate"),
            (f"n, {before}", f"n_{before}", "int"),
            *([("Measurement, now", "measurement_now", "int")] if numbered else []),
            ("Rate, now", "rate_now", "rate"),
            ("n, now", "n_now", "int"),
            ("Change", "delta", "rate"),
            ("p", "p_two_proportion", "p_cell"),
            ("Same adapter", "same_adapter", "yes_no"),
            ("Same identity", "same_identity", "yes_no"),
            **compared,
        )
        return Grid(columns, _keys(book, table, ["persona", "seed"], compared))

    return build


def _artifacts(book: Book) -> Grid:
    columns = _columns(
        "artifacts", ("Artifact", "artifact", "text"), ("Place", "path", "code"), ("Digest (sha256)", "digest", "code")
    )
    return Grid(columns, _keys(book, "artifacts", ["artifact", "path"]))


def _not_supported(book: Book) -> Grid:
    columns = _columns("not_supported", ("The imported data do not support", "what", "text"), ("Why", "why", "text"))
    return Grid(columns, _keys(book, "not_supported", ["what"]))


def _adapters(book: Book) -> Grid:
    columns = _columns(
        "measurements",
        ("Source persona", "source", "code"),
        ("Seed", "seed", "int"),
        ("Measurement", "measurement", "int"),
        ("Adapter digest (sha256)", "adapter_digest", "code"),
    )
    return Grid(columns, _keys(book, "measurements", ["source", "seed", "measurement"]))


_PAIRS = ("all", "strong", "weak", "without_trained_negatives", "without_anchor", "off_floor")


def _bystanders(statistic: str, registered: bool, pairs: tuple[str, ...]) -> Callable[[Book], Grid]:
    def build(book: Book) -> Grid:
        where: Where = {"statistic": statistic, "registered": registered, "predictor": "pairwise_cosine"}
        columns = _columns(
            "off_diagonal",
            ("Layer", "layer", "int"),
            ("Cells", "outcome", "name"),
            ("ρ", "estimate", "rho"),
            ("p (Mantel)" if statistic == "spearman" else "p (ordinary)", "p", "p_cell"),
            ("n", "n", "int"),
            **where,
        )
        there = {(row["layer"], row["outcome"]) for row in book.rows("off_diagonal", where)}
        wanted = [f"bystander_rate:{name}" for name in pairs] + ["off_floor", "bystander_residual:all"]
        layers = book.sources.study.analysis.primary_layers
        return Grid(columns, [{"layer": la, "outcome": name} for la in layers for name in wanted if (la, name) in there])

    return build


GRIDS: dict[str, Callable[[Book], Grid]] = {
    "plan": _plan,
    "panel": _panel,
    "identity": _identity,
    "rates": _rates,
    "scan": _scan,
    "scan_versions": _scan_versions,
    "gates": _gates(True),
    "gates_signed": _gates(False),
    "power": _power(True),
    "power_rule": _power(False),
    "categories": _categories,
    "partials": _tidy(
        "regressions", {"family": "partial"}, registered=True, statistics=("partial_spearman", "partial_multi"), notes=True
    ),
    "partials_sensitivity": _tidy(
        "regressions",
        {"family": "partial"},
        registered=False,
        statistics=("partial_spearman_permutation", "partial_multi_permutation", "partial_reranked"),
    ),
    "baselines": _tidy("regressions", {"family": "baselines"}, registered=True, statistics=("spearman", "mrr_z")),
    "baselines_sensitivity": _tidy(
        "regressions",
        {"family": "baselines"},
        registered=False,
        statistics=("mrr_z_holm", "steiger_eq14_z", "williams_t2"),
    ),
    "probe_tests": _tidy("probe", {}, registered=False, statistics=("mrr_z", "steiger_eq14_z", "williams_t2")),
    "seeds": _tidy(
        "regressions",
        {"family": "seeds"},
        registered=False,
        statistics=("variance_sampling", "variance_seed", "variance_persona", "reliability_mean", "spearman_over_seeds"),
    ),
    "continuous": _tidy(
        "regressions",
        {"family": "continuous", "predictor": "cosine"},
        registered=False,
        statistics=("spearman", "spearman_holm", "pearson", "partial_spearman"),
    ),
    "source_scores": _source_scores,
    "retest": _tidy(
        "retest",
        {},
        registered=False,
        statistics=("reliability", "noise_sd", "source_sd", "noise_share", "tighter", "equivalent_completions"),
    ),
    "bystanders": _bystanders("spearman_naive", True, ("all", "strong", "weak")),
    "bystanders_mantel": _bystanders("spearman", False, _PAIRS),
    "drift": _drift("inherited_drift", "parent"),
    "drift_tests": _drift_tests(True),
    "drift_tests_sensitivity": _drift_tests(False),
    **{f"remeasurement_{earlier}": _drift("remeasurement_drift", "before", compared_with=earlier) for earlier in COMPARED},
    **{
        f"remeasurement_tests_{earlier}{suffix}": _drift_tests(registered, "remeasurement_tests", compared_with=earlier)
        for earlier in COMPARED
        for registered, suffix in ((True, ""), (False, "_sensitivity"))
    },
    "attenuation": _tidy("attenuation", {}, registered=True, statistics=("abs_rho", "length_partial")),
    "attenuation_sensitivity": _tidy("attenuation", {}, registered=False, statistics=("subpanel_abs_rho", "ratio_abs_rho")),
    "artifacts": _artifacts,
    "not_supported": _not_supported,
    "adapters": _adapters,
}
