"""Which GPU is used is the user's choice: CUDA_VISIBLE_DEVICES reaches every process as it was set."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worker_tasks import keep_a_model, visible_devices

from persona_assets.catalog import load_catalog
from persona_assets.errors import ConfigurationError
from persona_assets.study import Profile
from persona_assets.workers import WorkerPool
from resources.model_runtime import ModelRuntime

REPOSITORY = Path(__file__).parents[2]
VARIABLE = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("chosen", ["GPU-5d3a", None])
def test_a_task_sees_the_devices_that_were_chosen(workers: int, chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(VARIABLE, chosen)
    pool = WorkerPool(workers)
    try:
        (outcome,) = pool.run(visible_devices, {"key": None})
    finally:
        pool.close()
    assert outcome.result == {"visible": chosen}
    assert os.environ.get(VARIABLE) == chosen


def test_the_runtime_leaves_the_choice_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "2")
    profile = load_catalog(REPOSITORY / "studies", "qwen2.5-7b").profile
    (outcome,) = ModelRuntime(device="cpu").run(profile, visible_devices, {"key": None})
    assert outcome.result == {"visible": "2"}


def test_a_process_ends_in_silence() -> None:
    """What is frozen when models are freed is thawed at the end; DuckDB would call it leaked, in front of the user."""
    code = "import resources.model_runtime, duckdb, gc; duckdb.sql('SELECT 1').fetchall(); gc.freeze()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_models_stay_from_task_to_task_and_go_between_steps() -> None:
    profile = load_catalog(REPOSITORY / "studies", "qwen2.5-7b").profile
    runtime = ModelRuntime(device="cpu")
    for _ in range(2):  # the second step finds nothing of the first
        found = [outcome.result for outcome in runtime.run(profile, keep_a_model, {"first": None, "second": None})]
        assert found == [{"uses": 1}, {"uses": 2}]


def test_workers_that_would_keep_an_engine_on_the_device_are_refused() -> None:
    shipped = load_catalog(REPOSITORY / "studies", "qwen2.5-7b").profile.model_dump()
    vllm = shipped["runtime"] | {"engine": "vllm"}
    profile = Profile.model_validate(shipped | {"runtime": vllm})
    with pytest.raises(ValueError, match="workers: 1 with vllm on a GPU, whose memory one engine takes whole; set it to 0"):
        Profile.model_validate(shipped | {"runtime": vllm | {"workers": 1}})
    with pytest.raises(ConfigurationError, match="model_runtime is refused: workers: 2 with vllm on a GPU.*; set it to 0[.]$"):
        ModelRuntime(workers=2).settings(profile)
    assert ModelRuntime(workers=2, device="cpu").settings(profile).workers == 2


def test_one_step_at_a_time_uses_the_device() -> None:
    import yaml
    from dagster import AssetsDefinition

    from persona_assets.assets.building import profile_definitions

    instance = yaml.safe_load((REPOSITORY / ".dagster" / "dagster.yaml").read_text(encoding="utf-8"))
    assert instance["concurrency"]["pools"] == {"granularity": "op", "default_limit": 1}
    definitions = profile_definitions(load_catalog(REPOSITORY / "studies", "qwen2.5-7b"))
    found = [each for each in definitions.assets or () if isinstance(each, AssetsDefinition)]
    pooled = {each.key.path[-1] for each in found if each.op.pool == "gpu"}
    assert {"base_model", "training_answers", "adapter", "layer_centroids", "base_cells", "eval_cells"} <= pooled
    assert {each.op.pool for each in found if each.key.path[-1] not in pooled} == {None}
    assert "source_rates" not in pooled


def test_nothing_in_the_project_sets_the_variable() -> None:
    """It is named in messages; a statement that stores under it would overwrite the user's choice."""
    stores = []
    for file in (path for top in ("persona_assets", "resources", "sensors") for path in (REPOSITORY / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            subscript = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            setter = call and node.func.attr in ("setdefault", "putenv", "update", "pop", "unsetenv")  # type: ignore[attr-defined]
            if (subscript or setter) and any(
                isinstance(part, ast.Constant) and part.value == VARIABLE for part in ast.walk(node)
            ):
                stores.append(f"{file}:{node.lineno}")  # type: ignore[attr-defined]
    assert stores == []
