"""Asset checks: data integrity blocks (ERROR), scientific gates and drift are results (WARN)."""

# No postponed annotations here: Dagster reads the types off the function when it is defined.

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    asset_check,
    multi_asset_check,
)

from persona_assets import integrity
from persona_assets.assets.partitions import shared_key, study_key
from persona_assets.assets.products import TABLE_PRODUCTS, Products, analysed
from persona_assets.catalog import Catalog
from persona_assets.integrity import Verdict
from persona_assets.study import Study
from resources.lake import Lake
from resources.warehouse import Warehouse


def shared_checks(catalog: Catalog) -> list[AssetChecksDefinition]:
    """Checks of the assets that all studies share."""
    profile = catalog.profile

    @asset_check(
        asset=shared_key(profile.name, "training_dataset"),
        name="row_counts",
        description="Every training dataset has the registered number of rows, and of rows with the marker.",
        blocking=True,
    )
    def row_counts(lake: Lake) -> AssetCheckResult:
        from persona_assets.dataset import read_rows
        from persona_assets.tasks.dataset import DATASET_FILE

        products = Products(catalog, lake)
        counts: dict[str, tuple[int, int]] = {}
        for persona in catalog.panel.ids:
            product = products.training_dataset(persona)
            if products.store.manifest(product.path) is not None:
                rows = read_rows(products.store.open(product.path) / DATASET_FILE)
                marked = sum(row["completion"][0]["content"].endswith(profile.marker) for row in rows)
                counts[persona] = (len(rows), marked)
        expected = profile.rows_per_persona * (1 + profile.n_negatives)
        return _result(integrity.dataset_rows(counts, rows=expected, marked=profile.rows_per_persona))

    return [row_counts]


def study_checks(study: Study, catalog: Catalog) -> list[AssetChecksDefinition]:
    """Checks of one study's tables."""
    profile, plan = catalog.profile.name, study.analysis
    completions = study.evaluation.n_questions * study.evaluation.completions_per_question

    def table_check(
        name: str, description: str, verdict: Callable[[dict[str, pl.DataFrame]], Verdict], *, blocking: bool
    ) -> AssetChecksDefinition:
        @asset_check(asset=study_key(profile, study.name, "source_rates"), name=name, description=description, blocking=blocking)
        def check(lake: Lake, warehouse: Warehouse) -> AssetCheckResult:
            path = Products(catalog, lake).source_rates(study).path
            tables = {table: warehouse.table(path, table) for table in ("cells", "source_rates", "measurements")}
            return _result(verdict(tables), AssetCheckSeverity.ERROR if blocking else AssetCheckSeverity.WARN)

        return check

    if study.imported is not None:
        return _imported_checks(study, catalog, table_check)
    return [
        table_check(
            "no_missing_cells",
            "Every source was measured under every eval persona, with every completion.",
            lambda tables: integrity.missing_cells(tables["cells"], study.panel.ids, study.seeds, completions),
            blocking=True,
        ),
        table_check(
            "one_measurement_identity",
            "All cells were measured under the same engine, sampling settings, template, questions and base model.",
            lambda tables: integrity.one_identity(tables["measurements"], plan.identity_override),
            blocking=True,
        ),
        table_check("no_nan", "No rate or interval is null or NaN.", integrity.not_finite, blocking=True),
        table_check(
            "base_rate",
            "The base model without adapter does not emit the marker.",
            lambda tables: integrity.base_rates(tables["cells"], plan.base_rate_limit),
            blocking=True,
        ),
        table_check(
            "rates_not_degenerate",
            "Source rates are spread, so that a correlation with them can mean something.",
            lambda tables: integrity.degenerate_rates(tables["source_rates"]),
            blocking=False,
        ),
        _gate_checks(study, catalog),
        *_drift_checks(study, catalog),
        _writeup_check(study, catalog),
    ]


def _imported_checks(
    study: Study, catalog: Catalog, table_check: Callable[..., AssetChecksDefinition]
) -> list[AssetChecksDefinition]:
    """The same checks on an imported study: what its files cannot show is a warning there, and stops nothing."""
    imported = study.imported
    assert imported is not None
    checks = [
        table_check(
            "no_missing_cells",
            "Every imported source has its own cell, and how many of the cells of the whole matrix were imported.",
            lambda tables: integrity.imported_cells(tables["cells"], study.panel.ids, study.seeds),
            blocking=False,
        ),
        table_check(
            "one_measurement_identity",
            "All imported cells were measured under the same, known conditions; unknown ones make comparisons confounded.",
            lambda tables: integrity.one_identity(tables["measurements"], study.analysis.identity_override),
            blocking=False,
        ),
        table_check(
            "no_nan",
            "No imported rate or interval is null or NaN.",
            lambda tables: integrity.not_finite(tables, imported_only=True),
            blocking=True,
        ),
        table_check(
            "rates_not_degenerate",
            "Source rates are spread, so that a correlation with them can mean something.",
            lambda tables: integrity.degenerate_rates(tables["source_rates"]),
            blocking=False,
        ),
    ]
    if imported.why_not("base rates") is None:
        checks.append(
            table_check(
                "base_rate",
                "The base model without adapter did not emit the marker.",
                lambda tables: integrity.base_rates(tables["cells"], study.analysis.base_rate_limit),
                blocking=False,
            )
        )
    if analysed(study):
        checks += [_gate_checks(study, catalog), *_drift_checks(study, catalog), _writeup_check(study, catalog)]
    return checks


def gate_check_name(gate: str, split: str | None, layer: int) -> str:
    """Name of the check of one gate, for example `gate_a_split_b_layer_15`."""
    return "_".join(["gate", gate.lower(), *([] if split is None else ["split", split.lower()]), "layer", str(layer)])


def _gate_checks(study: Study, catalog: Catalog) -> AssetChecksDefinition:
    key = study_key(catalog.profile.name, study.name, "gates")
    meaning = {
        "A": "cosine and source rate correlate in the holdout half alone",
        "B": "calibration and holdout slopes agree",
        "C": "the correlation holds within the occupational category",
    }
    places = [
        (gate, split, layer)
        for layer in study.analysis.primary_layers
        for gate, splits in (("A", ("A", "B")), ("B", ("A", "B")), ("C", (None,)))
        for split in splits
    ]

    @multi_asset_check(
        name=f"{catalog.profile.name}_{study.name}_gates".replace("-", "_").replace(".", "_"),
        specs=[
            AssetCheckSpec(
                gate_check_name(gate, split, layer),
                asset=key,
                description=f"Preregistered gate {gate}{f' on split {split}' if split else ''}, layer {layer}: {meaning[gate]}.",
            )
            for gate, split, layer in places
        ],
        can_subset=True,
    )
    def gates(context: AssetCheckExecutionContext, lake: Lake, warehouse: Warehouse):  # type: ignore[no-untyped-def]  # a generator that Dagster inspects
        table = warehouse.table(Products(catalog, lake).gates(study).path, "gates").filter("registered")
        for gate, split, layer in places:
            if AssetCheckKey(key, gate_check_name(gate, split, layer)) not in context.selected_asset_check_keys:
                continue
            same_split = pl.col("split").is_null() if split is None else pl.col("split") == split
            row = table.filter(pl.col("gate") == gate, same_split, pl.col("layer") == layer).row(0, named=True)
            numbers = {name: row[name] for name in ("observed", "threshold", "p", "n") if row[name] is not None}
            yield AssetCheckResult(
                asset_key=key,
                check_name=gate_check_name(gate, split, layer),
                passed=row["passed"],
                severity=AssetCheckSeverity.WARN,
                description=row["note"] or "",
                metadata=numbers,
            )

    return gates


@dataclass(frozen=True)
class DriftCheck:
    """A check that passes while the preregistered drift test of one comparison does not fire.

    Attributes:
        name: of the check.
        asset: whose tables hold the test.
        table: with the test.
        where: column values of the comparison.
        against: what the rates of now are compared with.
    """

    name: str
    asset: str
    table: str
    where: Mapping[str, str]
    against: str


DRIFT_CHECKS = (
    DriftCheck("no_drift", "inherited_drift", "drift_tests", {}, "the parent study"),
    *(
        DriftCheck(
            f"no_drift_since_{compared}_measurement",
            "remeasurement_drift",
            "remeasurement_tests",
            {"compared_with": compared},
            against,
        )
        for compared, against in (("first", "the first measurement"), ("last", "the last measurement before"))
    ),
)


def _drift_checks(study: Study, catalog: Catalog) -> list[AssetChecksDefinition]:
    return [_drift_check(study, catalog, drift) for drift in DRIFT_CHECKS]


def _drift_check(study: Study, catalog: Catalog, drift: DriftCheck) -> AssetChecksDefinition:
    @asset_check(
        asset=study_key(catalog.profile.name, study.name, drift.asset),
        name=drift.name,
        description=(
            f"The preregistered drift test against {drift.against} did not fire; a comparison across measurement identities "
            "does not pass."
        ),
    )
    def no_drift(lake: Lake, warehouse: Warehouse) -> AssetCheckResult:
        from persona_assets.statistics.drift_tests import deciding_test

        path = TABLE_PRODUCTS[drift.asset](Products(catalog, lake), study).path
        row = deciding_test(warehouse.table(path, drift.table).filter(**drift.where))
        numbers = {name: row[name] for name in ("estimate", "p", "n") if row[name] is not None}
        return AssetCheckResult(
            passed=row["verdict"] in ("no_drift", "not_tested"),
            severity=AssetCheckSeverity.WARN,
            description=f"{row['verdict']}. {row['note'] or ''}".strip(),
            metadata={**numbers, "verdict": row["verdict"]},
        )

    return no_drift


def _writeup_check(study: Study, catalog: Catalog) -> AssetChecksDefinition:
    @asset_check(
        asset=study_key(catalog.profile.name, study.name, "clean_result"),
        name="writeup_lint",
        description=(
            "The write-up has every section, its captions name the layer drawn, its samples are stored completions, and every "
            "number in it stands in the tables."
        ),
        blocking=True,
    )
    def writeup_lint(lake: Lake, warehouse: Warehouse) -> AssetCheckResult:
        from persona_assets.assets.writeups import writeup_sources
        from persona_assets.reporting.lint import lint
        from persona_assets.reporting.writeup import MARKDOWN_FILE

        products = Products(catalog, lake)
        file = products.store.open(products.clean_result(study).path) / MARKDOWN_FILE
        with file.open(encoding="utf-8", newline="") as opened:
            findings = lint(opened.read(), writeup_sources(study, products, warehouse))
        return _result(integrity.writeup([str(finding) for finding in findings]))

    return writeup_lint


def _result(verdict: Verdict, severity: AssetCheckSeverity = AssetCheckSeverity.ERROR) -> AssetCheckResult:
    return AssetCheckResult(passed=verdict.passed, severity=severity, description=verdict.sentence, metadata={**verdict.numbers})
