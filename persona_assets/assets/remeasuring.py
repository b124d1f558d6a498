"""Compute the tables of drift between measurements from every measurement in the lake."""

from __future__ import annotations

import polars as pl

from persona_assets.assets.computing import StudyData, Tables, recorded_measurement
from persona_assets.measurement import measurements_table, with_unknown
from persona_assets.tasks.cells import COMPLETIONS_FILE, COMPLETIONS_SCHEMA


def compute_remeasurement_drift(data: StudyData) -> Tables:
    """Tables `remeasurement_drift`, `remeasurement_tests` and `measurement_history`."""
    from persona_assets.statistics.drift import drift_settings
    from persona_assets.statistics.remeasurement import measured_rates, measurement_history, remeasurement_drift

    study, products, store = data.study, data.products, data.products.store
    measured = products.measured_cells(study)
    files = [store.open(product.path) / COMPLETIONS_FILE for product in measured]
    with data.warehouse.connect({"completions": files} if files else {}) as connection:
        if not files:
            connection.register("completions", pl.DataFrame(schema=COMPLETIONS_SCHEMA))
        rates = measured_rates(connection)
    measurements = measurements_table(
        # A field that an earlier version did not record is unknown: such a comparison is confounded, not impossible.
        [with_unknown(recorded_measurement(store.verified(product.path))) for product in measured]
    )
    result = remeasurement_drift(rates, measurements, drift_settings(study.analysis))
    return {
        "remeasurement_drift": result.remeasurement_drift,
        "remeasurement_tests": result.remeasurement_tests,
        "measurement_history": measurement_history(rates, measurements, study.analysis.confidence_level),
    }
