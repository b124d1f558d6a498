"""A training and an evaluation that a tracker is told of; a tracker that refuses is in nobody's way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from deployments import PROFILE, Site
from servers.wandb import WandbServer, wandb_server
from servers.wandb_state import ENTITY, StoredRun

from persona_assets.adapter_files import LOSS_CURVE_FILE
from resources.tracker import TRACKER_VARIABLE

pytestmark = pytest.mark.slow

ADAPTER = f"{PROFILE}/adapter/seed=42/persona=villain"
CELLS = f"{PROFILE}/small/eval_cells/source=villain/seed=42/measurement=1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    with wandb_server(tmp_path / "config", **{TRACKER_VARIABLE: f"wandb:{ENTITY}/markers"}) as running:
        yield running


def tracked(server: WandbServer, job: str) -> StoredRun:
    (found,) = [run for run in server.runs.values() if run.job_type == job]
    return found


def test_loss_curve_and_rates_are_tracked_once(small_site: Site, server: WandbServer, tmp_path: Path) -> None:
    site = small_site.copy(tmp_path / "site")
    for made_again in (ADAPTER, CELLS):
        shutil.rmtree(site.lake / made_again)
    with site.opened() as opened:
        opened.run("small", "personas", "adapter", personas=("librarian", "villain"))
        opened.run("small", "eval cells", personas=("librarian", "villain"))
    assert len(server.runs) == 2  # the librarian's were skipped
    training, evaluation = tracked(server, "training"), tracked(server, "evaluation")
    adapter, cells = site.manifests()[ADAPTER], site.manifests()[CELLS]
    curve = pl.read_parquet(site.lake / ADAPTER / LOSS_CURVE_FILE)
    assert [row["loss"] for row in training.history] == pytest.approx(curve["loss"].to_list())
    assert [row["_step"] for row in training.history] == curve["step"].to_list()
    assert training.summary["tokens_per_second"] == pytest.approx(adapter.facts["tokens_per_second"])
    assert training.config["persona"]["value"] == "villain"
    assert training.display_name == "adapter villain seed 42"
    for name in ("source_rate", "bystander_rate"):
        assert evaluation.summary[name] == pytest.approx(cells.facts[name])
    share = float(str(cells.facts["truncated"])) / float(str(cells.facts["completions"]))
    assert evaluation.summary["truncation_rate"] == pytest.approx(share)
    assert evaluation.config["identity"]["value"]["adapter_digest"] == cells.facts["identity"]["adapter_digest"]  # type: ignore[index]


def test_a_tracker_that_refuses_fails_no_training(
    small_site: Site,
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    site = small_site.copy(tmp_path / "site")
    shutil.rmtree(site.lake / ADAPTER)
    with site.opened() as opened:
        opened.run("small", "personas", "adapter", personas=("villain",))
        run = opened.instance.get_runs(limit=1)[0]
        said = [str(entry.user_message) for entry in opened.instance.all_logs(run.run_id)]
    site.store.verified(ADAPTER)
    assert server.runs == {}
    (refused,) = [message for message in said if "refuses the API key: check WANDB_API_KEY" in message]
    assert refused.endswith("From here on the metrics are kept on disk; the work goes on.")
    kept = site.root / "home" / "tracking" / "wandb"
    assert any(f"Send with: wandb sync {kept}/offline-run-*" in message for message in said)
    assert list(kept.glob("offline-run-*/*.wandb"))
