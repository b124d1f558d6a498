"""The commands `estimate` and `doctor`, on deployments in which nothing was run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from persona_assets.cli.app import main
from resources.lake import REPOSITORY

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run a command in this process on the repository's studies and an empty lake."""
    monkeypatch.setenv("PERSONA_STUDIES", str(REPOSITORY / "studies"))
    monkeypatch.setenv("PERSONA_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "PERSONA_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["persona-assets", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_the_whole_lineage_is_estimated_from_the_shipped_table(invoke: Invoke) -> None:
    code, out, _ = invoke("estimate", "n48", "--profile", "qwen2.5-7b", "--answer-tokens", "200", "--json")
    assert code == 0
    found = json.loads(out)
    stages = {(row["study"], row["asset"]): row for row in found["stages"]}
    assert [key for key in stages if key[1] == "eval_cells"] == [
        ("n12", "eval_cells"),
        ("n24", "eval_cells"),
        ("n48", "eval_cells"),
    ]
    assert stages["n48", "eval_cells"]["tokens"] == 48 * 48 * 100 * 200
    assert stages[None, "adapter"]["missing"] == stages[None, "adapter"]["keys"] == 48
    assert found["total"]["disk_bytes"] > 48 * 4 * 80_740_352
    assert stages[None, "adapter"]["device_seconds"] > stages[None, "adapter"]["least_seconds"] > 0
    assert 1 < found["total"]["device_hours"] < 100


def test_adapters_in_registries_are_not_trained(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = shutil.copytree(REPOSITORY / "studies", tmp_path / "studies")
    monkeypatch.setenv("PERSONA_STUDIES", str(studies))
    file = studies / "qwen2.5-7b" / "n12.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["inherited_adapters"] = {"librarian": "file:/adapters/librarian", "villain": "hf:lab/markers@main:villain"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    code, out, _ = invoke("estimate", "n24", "--profile", "qwen2.5-7b", "--json")  # the child inherits them as well
    assert code == 0
    stages = {(row["study"], row["asset"]): row for row in json.loads(out)["stages"]}
    counts = {asset: stages[None, asset]["missing"] for asset in ("training_dataset", "adapter", "adapter (pulled)")}
    assert counts == {"training_dataset": 22, "adapter": 22, "adapter (pulled)": 2}
    assert stages[None, "adapter (pulled)"]["device_seconds"] == 0
    assert stages["n24", "marker_scores"]["missing"] == 24


def test_what_is_not_measured_is_printed(invoke: Invoke) -> None:
    code, out, _ = invoke("estimate", "n12")
    assert code == 0
    assert "unknown" in out
    assert "not measured" in out


def test_a_table_that_is_not_there(invoke: Invoke) -> None:
    code, _, err = invoke("estimate", "n12", "--table", "/no/such/table.json")
    assert code == 1
    assert "/no/such/table.json: cannot be read" in err


def test_doctor_is_content_with_the_embedded_profile(invoke: Invoke) -> None:
    code, out, _ = invoke("doctor", "--json")
    assert code == 0
    assert {finding["level"] for finding in json.loads(out)} <= {"ok", "warning"}


def test_doctor_ends_with_a_problem_where_there_is_one(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, _ = invoke("doctor", "--profile", "qwen2.5-7b")
    assert code == 1
    assert "problem" in out
    assert str(tmp_path / "lake" / "hub_cache") in out.replace("\n", "")
    assert "HF_HOME" in out
