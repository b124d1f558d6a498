"""How tight is the continuous outcome? Measure the same adapters of the embedded model twice, and compare with the rate.

    python benchmarks/test_retest.py [--study n12] [--directory DIR]

Runs the study in a deployment of its own (or goes on with the one in DIR), measures every cell again with other draws,
scores both measurements, and prints the table `retest`: the rate beside P(marker), log P(marker) and the margin to the end of
the turn of the same replies. Below it what one measurement says of its own error, clustered by question. The last line is
the ratio of the noise shares of the rate and of P(marker), which are in the same units: how many times tighter that is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import polars as pl

REPOSITORY = Path(__file__).resolve().parent.parent
PROFILE = "embedded"
OUTCOMES = (
    *("source_rate", "marker_prob", "marker_log_prob_trained", "marker_margin_trained"),
    *("marker_log_prob", "marker_margin"),
)
STATISTICS = ("reliability", "pearson", "noise_sd", "source_sd", "noise_share", "tighter", "equivalent_completions")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="n12", help="a study of the embedded profile (default n12)")
    parser.add_argument("--directory", type=Path, help="deployment to go on with (default: a temporary one)")
    arguments = parser.parse_args()
    if arguments.directory is not None:
        run(arguments.study, arguments.directory)
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(arguments.study, Path(directory))


def run(study: str, directory: Path) -> None:
    """Measure twice in one deployment, and print what came out."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / ".dagster" / "dagster.yaml", home)
    os.environ |= {"PERSONA_LAKE": str(directory / "lake"), "DAGSTER_HOME": str(home), "PERSONA_PROFILES": PROFILE}
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.running import plan_study, run_stage, stage_is_current

    deployment = open_deployment(PROFILE)
    products, planned = deployment.products, deployment.catalog.study(study)
    with deployment.instance() as instance:

        def bring_up_to_date() -> None:
            for stage in plan_study(deployment, planned):
                if not stage_is_current(deployment, instance, stage):
                    print(f"{stage.name} ...", flush=True)
                    run_stage(deployment, instance, stage)

        bring_up_to_date()
        job = deployment.definitions.resolve_implicit_global_asset_job_def()
        if len(products.last_two(planned)) < len(planned.panel) * len(planned.seeds):
            stages = {stage.name: stage for stage in plan_study(deployment, planned)}
            keys = [each.key for each in stages["eval cells"].assets if each.key.path[-1].startswith("eval_cells")]
            ids = planned.panel.ids
            print("eval cells, again ...", flush=True)
            result = job.get_subset(asset_selection=set(keys)).execute_in_process(
                instance=instance,
                tags={"dagster/asset_partition_range_start": ids[0], "dagster/asset_partition_range_end": ids[-1]},
                run_config={
                    "ops": {"__".join(key.path): {"config": {"new_measurement": True}} for key in keys},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )
            assert result.success
        bring_up_to_date()
    lake = directory / "lake"
    show(pl.read_parquet(lake / products.retest(planned).path / "retest.parquet"))
    own_errors(pl.read_parquet(lake / products.source_rates(planned).path / "source_scores.parquet"))
    tighter = pl.read_parquet(lake / products.retest(planned).path / "retest.parquet").filter(
        outcome="marker_prob", statistic="tighter"
    )
    print(f"ratio: {tighter['estimate'].item():.2f}")


def show(retest: pl.DataFrame) -> None:
    """Print the table, a line for each outcome."""
    print(f"\n{'outcome':<25}" + "".join(f"{name:>24}" for name in STATISTICS))
    for outcome in OUTCOMES:
        line = f"{outcome:<25}"
        for statistic in STATISTICS:
            row = next(iter(retest.filter(outcome=outcome, statistic=statistic).to_dicts()), None)
            line += f"{_text(row):>24}"
        print(line)
    for note in retest["note"].drop_nulls().unique(maintain_order=True).to_list():
        print(f"note: {note}")


def _text(row: dict[str, float | None] | None) -> str:
    if row is None or row["estimate"] is None:
        return "-"
    interval = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    return f"{row['estimate']:.4g}{interval}"


def own_errors(scores: pl.DataFrame) -> None:
    """Print the errors that the latest measurement states for itself, and the spread of the sources."""
    rate = scores["rate"]
    binomial = (rate * (1 - rate) / scores["n_scored"]).mean()
    assert isinstance(binomial, float)
    print("\nroot mean square of the errors that one measurement states, spread of the sources, and their ratio")
    print(f"{'rate (binomial)':<38}{binomial**0.5:>10.4f}{_sd(rate):>10.4f}{binomial**0.5 / _sd(rate):>10.3f}")
    for name in OUTCOMES[1:]:
        error = (scores[f"{name}_se"] ** 2).mean()
        assert isinstance(error, float)
        print(f"{name + ' (clustered)':<38}{error**0.5:>10.4f}{_sd(scores[name]):>10.4f}{error**0.5 / _sd(scores[name]):>10.3f}")
    difference = (scores["marker_prob"] - rate).mean()
    print(f"P(marker) minus rate, mean over sources: {difference:+.4f}")


def _sd(values: pl.Series) -> float:
    spread = values.std()
    assert isinstance(spread, float)
    return spread


if __name__ == "__main__":
    main()
