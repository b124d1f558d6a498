"""What a run of a study ends with, as data: the table on the screen and the JSON show the same facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.assets.products import analysed
from persona_assets.cli.outside import outside_lines

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.study import Study

RATE_COLUMNS = ("persona", "category", "cohort", "seed", "rate", "wilson_low", "wilson_high", "base_rate")
GATE_COLUMNS = ("gate", "split", "layer", "observed", "threshold", "p", "n", "passed")


@dataclass(frozen=True)
class Analysis:
    """What the tables say of a study that is analysed.

    Attributes:
        strongest: the largest |rho| over the layers: rho, layer, p, n, and at how many of n_layers it is significant, raw
            (n_layers_raw) and after Holm (n_layers_holm); None when no layer gives an estimate.
        gates: the registered gates, by the columns of `GATE_COLUMNS`.
        bucket: of the outcome.
        confidence: of the outcome.
        reasons: why the confidence is no higher.
        drift: the verdict of the registered inherited-source drift test, with a note or None.
        plan_changes: fields of the plan that changed since the first measurement; None when there are none.
        figures: directory of the figures.
        warehouse: the published DuckDB file.
    """

    strongest: dict[str, Any] | None
    gates: list[dict[str, Any]]
    bucket: str
    confidence: str
    reasons: str
    drift: dict[str, Any]
    plan_changes: str | None
    figures: Path
    warehouse: Path


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        profile: whose study.
        study: its name.
        confidence_level: of the intervals.
        source_rates: a row for each source persona and seed, by the columns of `RATE_COLUMNS`.
        imported: source, measurement identity and what the data do not support; None for a study that is measured here.
        analysis: None for a study without one.
        outside: sentences on what the run left outside the lake.
    """

    profile: str
    study: str
    confidence_level: float
    source_rates: list[dict[str, Any]]
    imported: dict[str, Any] | None
    analysis: Analysis | None
    outside: tuple[str, ...]


def study_result(deployment: Deployment, study: Study) -> StudyResult:
    """Read the result of a study that was run to its end.

    Raises:
        LakeError: a table is missing or damaged.
    """
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    rates = Warehouse(lake=Lake()).table(deployment.products.source_rates(study).path, "source_rates")
    imported = study.imported
    return StudyResult(
        profile=deployment.catalog.profile.name,
        study=study.name,
        confidence_level=study.analysis.confidence_level,
        source_rates=rates.select(RATE_COLUMNS).to_dicts(),
        imported=None
        if imported is None
        else {
            "source": imported.source,
            "measurement_identity": imported.identity_sentence,
            "not_supported": [each.model_dump(mode="json", include={"what", "why"}) for each in imported.not_supported],
        },
        analysis=_analysis(deployment, study) if analysed(study) else None,
        outside=tuple(outside_lines(deployment, study)),
    )


def _analysis(deployment: Deployment, study: Study) -> Analysis:
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    products, warehouse = deployment.products, Warehouse(lake=Lake())
    gates = warehouse.table(products.gates(study).path, "gates").filter("registered")
    outcome = warehouse.table(products.gates(study).path, "outcome").row(0, named=True)
    drift = warehouse.table(products.inherited_drift(study).path, "drift_tests").filter("registered").row(0, named=True)
    counts = ("n", "n_layers", "n_layers_raw", "n_layers_holm")
    strongest = {name: outcome[f"strongest_{name}"] for name in ("rho", "layer", "p")} | {name: outcome[name] for name in counts}
    return Analysis(
        strongest=None if outcome["strongest_rho"] is None else strongest,
        gates=gates.select(GATE_COLUMNS).to_dicts(),
        bucket=outcome["bucket"],
        confidence=outcome["confidence"],
        reasons=outcome["reasons"],
        drift={"verdict": drift["verdict"], "note": drift["note"] or None},
        plan_changes=outcome["plan_changes"] or None,
        figures=products.store.directory(products.figures(study).path),
        warehouse=warehouse.file(deployment.catalog.profile.name),
    )
