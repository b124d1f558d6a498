"""Tables of a write-up that say what a study found."""

from __future__ import annotations

from collections.abc import Callable

from persona_assets.reporting.writeup.binding import Book, Grid, Where
from persona_assets.reporting.writeup.grid_columns import columns_of, keys_of

_SCAN: Where = {"family": "scan", "predictor": "cosine", "registered": True}
PAIRS = ("all", "strong", "weak", "without_trained_negatives", "without_anchor", "off_floor")


def _seed(book: Book) -> list[tuple[str, str, str]]:
    """The column of training seeds, where there are several."""
    return [("Seed", "seed", "int")] if len(book.sources.study.seeds) > 1 else []


def rates(book: Book) -> Grid:
    """Source rates with their intervals, a row for each persona and seed."""
    columns = columns_of(
        "source_rates",
        ("Persona", "persona", "code"),
        ("Category", "category", "name"),
        ("Cohort", "cohort", "text"),
        *_seed(book),
        ("Hits", "hits", "int"),
        ("n", "n", "int"),
        ("Rate", "rate", "rate"),
        ("Wilson", "wilson_low|wilson_high", "interval2"),
        ("By question", "cluster_low|cluster_high", "interval2"),
        ("Base rate", "base_rate", "rate"),
        ("Truncated", "truncation_rate", "percent"),
    )
    return Grid(columns, keys_of(book, "source_rates", ["persona", "seed"]))


def source_scores(book: Book) -> Grid:
    """The continuous outcome of each persona and seed."""
    columns = columns_of(
        "source_scores",
        ("Persona", "persona", "code"),
        *_seed(book),
        ("Scored", "n_scored", "int"),
        ("log P(marker)", "marker_log_prob", "d2"),
        ("Interval", "marker_log_prob_low|marker_log_prob_high", "interval2"),
        ("Margin", "marker_margin", "d2"),
        ("Interval of the margin", "marker_margin_low|marker_margin_high", "interval2"),
        ("P(marker)", "marker_prob", "rate"),
        ("Rate", "rate", "rate"),
    )
    return Grid(columns, keys_of(book, "source_scores", ["persona", "seed"]))


def scan(book: Book) -> Grid:
    """The registered correlation of cosine and source rate, layer by layer."""
    spearman: Where = {**_SCAN, "statistic": "spearman"}
    columns = [
        *columns_of("regressions", ("Layer", "layer", "int"), ("ρ", "estimate", "rho"), **spearman),
        *columns_of("regressions", ("Interval of ρ", "low|high", "interval3"), ("p", "p", "p_cell"), **spearman),
        *columns_of("regressions", ("Holm p", "p", "p_cell"), **{**_SCAN, "statistic": "spearman_holm"}),
        *columns_of("regressions", ("r", "estimate", "rho"), ("p of r", "p", "p_cell"), **{**_SCAN, "statistic": "pearson"}),
        *columns_of("regressions", ("r, one left out", "low|high", "interval3"), **{**_SCAN, "statistic": "loo_pearson"}),
    ]
    return Grid(columns, keys_of(book, "regressions", ["layer"], spearman))


def scan_versions(book: Book) -> Grid:
    """Its sensitivity versions, at the primary layers."""
    columns = columns_of(
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


def gates(registered: bool) -> Callable[[Book], Grid]:
    """Gates as registered, or with the registered direction required."""

    def build(book: Book) -> Grid:
        columns = columns_of(
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
        return Grid(columns, keys_of(book, "gates", ["gate", "split", "layer"], {"registered": registered}))

    return build


def power(registered: bool) -> Callable[[Book], Grid]:
    """Power of the registered tests, or of the gates and of the whole rule."""

    def build(book: Book) -> Grid:
        columns = columns_of(
            "power",
            ("Population ρ", "population_rho", "d2"),
            ("What has to pass", "quantity", "name"),
            ("Probability", "probability", "percent"),
            ("Interval of the simulation", "low|high", "interval3"),
            ("Draws", "draws", "int"),
            registered=registered,
        )
        return Grid(columns, keys_of(book, "power", ["population_rho", "quantity"], {"registered": registered}))

    return build


def categories(book: Book) -> Grid:
    """The correlation within each category, at the primary layers."""
    columns = columns_of(
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


def tidy(
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
        columns = columns_of(
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


def drift_tests(registered: bool, table: str = "drift_tests", **compared: str) -> Callable[[Book], Grid]:
    """Tests of drift of a table, registered or sensitivity."""

    def build(book: Book) -> Grid:
        columns = columns_of(
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
        return Grid(columns, keys_of(book, table, ["statistic"], {"registered": registered, **compared}))

    return build


def drift(table: str, before: str, **compared: str) -> Callable[[Book], Grid]:
    """Rates before and now, of a table whose columns call what was before by that name."""

    def build(book: Book) -> Grid:
        numbered = "measurement_now" in book.tables[table].columns
        columns = columns_of(
            table,
            ("Persona", "persona", "code"),
            *_seed(book),
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
        return Grid(columns, keys_of(book, table, ["persona", "seed"], compared))

    return build


def bystanders(statistic: str, registered: bool, pairs: tuple[str, ...]) -> Callable[[Book], Grid]:
    """Correlation of pairwise cosine and bystander rate over some subsets of the cells, at the primary layers."""

    def build(book: Book) -> Grid:
        where: Where = {"statistic": statistic, "registered": registered, "predictor": "pairwise_cosine"}
        columns = columns_of(
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
