from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest

from persona_assets.hashing import sha256_text
from persona_assets.statistics.analysis import Extras, StudyFrames, analyse
from persona_assets.statistics.identity import MixedIdentityError
from persona_assets.statistics.simulation import ANCHOR, SimulatedStudy, simulate_study
from persona_assets.study import AnalysisPlan

PLAN = AnalysisPlan(primary_layers=(3, 2), bootstrap_resamples=200, permutations=999)
DETERMINISM = """
import json, sys
from persona_assets.hashing import sha256_text
from persona_assets.statistics.analysis import analyse
from persona_assets.statistics.simulation import ANCHOR, simulate_study
from persona_assets.study import AnalysisPlan
study = simulate_study(14, rho=-0.5, seed=1, layers=4, inherited=6, resamples=200)
plan = AnalysisPlan(primary_layers=(2,), bootstrap_resamples=200, permutations=999)
tables = analyse("s", study.frames, plan, anchor=ANCHOR)
tables["cells"] = study.frames.cells
print(json.dumps({name: sha256_text(frame.write_csv()) for name, frame in tables.items()}))
"""


def parent_of(study: SimulatedStudy) -> StudyFrames:
    """The inherited half as a study of its own, with the same adapters under the same conditions."""
    frames = study.frames
    inherited = frames.source_rates.filter(cohort="inherited")["persona"].to_list()
    return StudyFrames(
        source_rates=frames.source_rates.filter(pl.col("persona").is_in(inherited)).with_columns(rate=pl.col("rate") * 0.9),
        geometry=frames.geometry.filter(pl.col("persona").is_in(inherited)),
        measurements=frames.measurements,
        personas=frames.personas,
    )


def test_every_family_over_one_study(study: SimulatedStudy) -> None:
    parent = parent_of(study)
    ids = study.frames.personas["persona"].to_list()
    extras = Extras(
        token_ids=[{i % 5, 7} for i in range(24)],
        corpus_counts={"persona": 3, **{f"{i:03d}": i for i in range(24)}},
        capability_loss={persona: float(len(persona)) for persona in ids},
        states=np.random.default_rng(0).standard_normal((24, 10, 6, 5)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        tables = analyse("n24", study.frames, PLAN, anchor=ANCHOR, parent=parent, ancestors={"n12": parent}, extras=extras)
    assert set(tables) == {
        "regressions", "off_diagonal", "power", "inherited_drift", "drift_tests", "gates", "outcome", "gate_details",
        "attenuation", "probe",
    }  # fmt: skip
    families = {"scan", "partial", "baselines", "cross_validation", "within_category", "seeds"}
    assert set(tables["regressions"]["family"]) == families
    assert tables["inherited_drift"]["same_adapter"].all()
    assert set(tables["drift_tests"]["verdict"]) == {"no_drift", "drift"}
    assert tables["outcome"].height == 1
    for name, frame in tables.items():
        assert frame.height, name
        for column, dtype in frame.schema.items():
            assert not (dtype.is_float() and frame[column].is_nan().any()), (name, column)
        if "estimate" in frame.columns:
            silent = frame.filter(pl.col("estimate").is_null() & pl.col("note").is_null())
            assert silent.is_empty(), name


def test_a_planted_effect_is_found_where_it_was_planted(study: SimulatedStudy) -> None:
    tables = analyse("n24", study.frames, PLAN, anchor=ANCHOR)
    scan = tables["regressions"].filter(pl.col("registered"), pl.col("statistic") == "spearman", pl.col("family") == "scan")
    planted = scan.filter(layer=3).row(0, named=True)
    assert planted["estimate"] < -0.4
    assert planted["p"] < 0.05


def test_mixed_identities_stop_the_analysis_or_are_printed(study: SimulatedStudy) -> None:
    engines = pl.Series(["simulation"] * 23 + ["other"])
    mixed = StudyFrames(**{**vars(study.frames), "measurements": study.frames.measurements.with_columns(engine=engines)})
    with pytest.raises(MixedIdentityError, match="engine: other, simulation"):
        analyse("n24", mixed, PLAN, anchor=ANCHOR)
    reasoned = PLAN.model_copy(update={"identity_override": "for a test"})
    assert analyse("n24", mixed, reasoned, anchor=ANCHOR)["gates"].height


# Table, and where it has several the family, that a field of the plan must move.
REACHED = {
    "alpha": (0.2, ["regressions/scan", "regressions/within_category", "gates", "power"]),
    "registered_sign": (1, ["gates", "power", "outcome"]),
    "slope_tolerance": (9.0, ["gates", "power"]),
    "drift_low_share": (0.01, ["drift_tests"]),
    "drift_match_share": (0.01, ["drift_tests"]),
    "confidence_level": (0.6, ["regressions/scan", "regressions/cross_validation", "regressions/seeds", "drift_tests",
                               "attenuation"]),
    "bootstrap_resamples": (100, ["regressions/scan", "regressions/cross_validation", "drift_tests", "attenuation"]),
    "permutations": (1099, ["regressions/partial", "off_diagonal"]),
    "seed": (7, ["regressions/scan", "regressions/partial", "regressions/cross_validation", "off_diagonal", "power", "gates",
                 "drift_tests", "attenuation"]),
    "primary_layers": ((1,), ["regressions/baselines", "regressions/seeds", "gates", "attenuation"]),
}  # fmt: skip


@pytest.mark.slow
def test_every_field_of_the_plan_reaches_what_it_decides() -> None:
    study = simulate_study(24, rho=-0.7, seed=5, layers=4, inherited=12, seeds=(1, 2), leakage=0.2, resamples=100)
    parent = parent_of(study)

    def tables(plan: AnalysisPlan) -> dict[str, pl.DataFrame]:
        found = analyse("n24", study.frames, plan, anchor=ANCHOR, parent=parent, ancestors={"n12": parent})
        families = {f"regressions/{own['family'][0]}": own for own in found["regressions"].partition_by("family")}
        return {**found, **families}

    plan = AnalysisPlan(primary_layers=(2, 1), bootstrap_resamples=200, permutations=999)
    before = tables(plan)
    for field, (value, reached) in REACHED.items():
        now = tables(plan.model_copy(update={field: value}))
        assert [name for name in reached if now[name].equals(before[name])] == [], field


def test_several_seeds(recwarn: pytest.WarningsRecorder) -> None:
    frames = simulate_study(12, rho=-0.6, seed=2, layers=3, seeds=(1, 2), resamples=100).frames
    plan = AnalysisPlan(primary_layers=(1,), bootstrap_resamples=100, permutations=999)
    tables = analyse("twice", frames, plan, anchor=ANCHOR)
    assert tables["outcome"]["n_seeds"].item() == 2
    parts = tables["regressions"].filter(statistic="variance_seed")
    assert parts["estimate"].null_count() == 0
    assert not [warning for warning in recwarn.list if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.slow
def test_the_same_tables_under_any_hash_seed() -> None:
    digests = []
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        result = subprocess.run([sys.executable, "-c", DETERMINISM], env=environment, capture_output=True, text=True, check=True)
        digests.append(json.loads(result.stdout))
    assert digests[0] == digests[1] == digests[2]
    assert len(digests[0]["gates"]) == len(sha256_text(""))
