"""Every field of the analysis plan moves the tables that it decides: none is lost between the study file and the core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from deployments import PROFILE, Site

from persona_assets.assets import computing
from persona_assets.assets.computing import StudyData
from persona_assets.assets.products import Products
from persona_assets.catalog import load_catalog
from resources.lake import REPOSITORY, Lake
from resources.warehouse import Warehouse

pytestmark = pytest.mark.slow

COMPUTED = {
    "source_rates": computing.compute_source_rates,
    "regressions": computing.compute_regressions,
    "off_diagonal": computing.compute_off_diagonal,
    "power": computing.compute_power,
    "inherited_drift": computing.compute_inherited_drift,
    "gates": computing.compute_gates,
    "attenuation": computing.compute_attenuation,
}
# What moves in a panel of seven personas; `power` is tested on a larger one below, as it needs nothing measured.
MOVED = {
    "alpha": (0.2, ["regressions", "power", "gates"]),
    "registered_sign": (1, ["gates"]),
    "slope_tolerance": (9.0, ["gates"]),
    "drift_low_share": (0.01, ["inherited_drift"]),
    "drift_match_share": (0.01, ["inherited_drift"]),
    "confidence_level": (0.6, ["source_rates", "regressions", "inherited_drift", "attenuation"]),
    "bootstrap_resamples": (130, ["regressions", "inherited_drift", "attenuation"]),
    "permutations": (1099, ["regressions", "off_diagonal"]),
    "seed": (7, ["regressions", "off_diagonal", "power", "inherited_drift", "gates", "attenuation"]),
    "primary_layers": ((1,), ["regressions", "gates", "attenuation"]),
}


def test_every_field_of_the_plan_reaches_its_tables(large_site: Site) -> None:
    catalog = load_catalog(large_site.studies, PROFILE)
    lake = Lake(root=str(large_site.lake))
    products, warehouse, study = Products(catalog, lake), Warehouse(lake=lake), catalog.study("large")

    def compute(name: str, **changed: object) -> dict[str, pl.DataFrame]:
        planned = replace(study, analysis=study.analysis.model_copy(update=changed))
        return dict(COMPUTED[name](StudyData(planned, products, warehouse)))

    registered = {name: compute(name) for name in COMPUTED}
    unmoved = []
    for field, (value, names) in MOVED.items():
        assert getattr(study.analysis, field) != value
        for name in names:
            now = compute(name, **{field: value})
            if all(now[table].equals(frame) for table, frame in registered[name].items()):
                unmoved.append((field, name))
    assert unmoved == []


@pytest.mark.parametrize(("field", "value"), [("alpha", 0.2), ("registered_sign", 1), ("slope_tolerance", 9.0), ("seed", 7)])
def test_the_power_of_the_plan_as_it_stands(tmp_path: Path, field: str, value: float) -> None:
    catalog = load_catalog(REPOSITORY / "studies", PROFILE)
    lake = Lake(root=str(tmp_path))
    study = catalog.study("n24")
    changed = replace(study, analysis=study.analysis.model_copy(update={field: value}))
    one, other = (
        computing.compute_power(StudyData(each, Products(catalog, lake), Warehouse(lake=lake)))["power"]
        for each in (study, changed)
    )
    assert not one.equals(other)
