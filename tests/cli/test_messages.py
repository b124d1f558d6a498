"""What the command line says when it is asked for help or for something it cannot do; nothing here runs a study."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from persona_assets.cli.app import app, main

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Give a function that runs `persona-assets` in this process on a deployment that nothing was run in."""
    from deployments import new_site

    site = new_site(tmp_path / "site")
    for name, value in site.variables.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["persona-assets", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return 0 if code is None else int(code), said.out, said.err

    return run


def test_the_commands_there_are() -> None:
    assert {"run", "status", "sql"} <= set(COMMANDS)


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(invoke: Invoke, command: str, option: str) -> None:
    code, out, _ = invoke(command, option)
    assert code == 0
    assert f"Usage: persona-assets {command}" in out
    assert re.search(rf"Examples?:\s+persona-assets {command}\b", out)


def test_the_command_alone_lists_the_commands(invoke: Invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert all(re.search(rf"\b{command}\b", out) for command in COMMANDS)
    alone = invoke()
    assert "Usage: persona-assets" in alone[1] + alone[2]


def test_a_command_there_is_not(invoke: Invoke) -> None:
    code, _, err = invoke("runn")
    assert code == 2
    assert "No such command 'runn'" in err


@pytest.mark.parametrize("command", [["run"], ["status"]])
def test_a_study_there_is_not(invoke: Invoke, command: list[str]) -> None:
    code, _, err = invoke(*command, "n13")
    assert code == 1
    assert err == "persona-assets: There is no study 'n13' in profile embedded; there are: small, large.\n"


@pytest.mark.parametrize("command", [["run", "small"], ["status"], ["sql", "SELECT 1"]])
def test_a_profile_there_is_not(invoke: Invoke, command: list[str]) -> None:
    code, _, err = invoke(*command, "--profile", "huge")
    assert code == 1
    assert err.startswith("persona-assets: There is no profile 'huge'")
    assert err.endswith("Profiles there are: embedded.\n")


def test_a_study_file_that_is_wrong(invoke: Invoke) -> None:
    file = Path(os.environ["PERSONA_STUDIES"]) / "embedded" / "large.yaml"
    file.write_text("panel_size: 7\nparent: small\nanalysis:\n  primary_layers: [2, -1]\n", encoding="utf-8")
    code, _, err = invoke("status")
    assert code == 1
    assert err == (
        f"persona-assets: {file}:4: analysis.primary_layers.1: Input should be greater than or equal to 0 (given: -1)\n"
    )


def test_a_relative_dagster_home(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "here")
    code, _, err = invoke("status")
    assert code == 1
    assert err == "persona-assets: DAGSTER_HOME is 'here': Dagster needs an absolute path.\n"


def test_a_lake_that_is_no_directory(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_LAKE", "s3://bucket/lake")
    code, _, err = invoke("status")
    assert code == 1
    assert "The lake's root 's3://bucket/lake' is a URL." in err
    assert "set PERSONA_LAKE to a directory" in err


def test_status_before_anything_was_run(invoke: Invoke) -> None:
    code, out, _ = invoke("status", "small", "--json")
    assert code == 0
    rows = json.loads(out)
    assert {row["study"] for row in rows} == {"small"}
    assert all(row["missing"] == row["total"] and row["done"] == row["failed"] == row["stale"] == 0 for row in rows)
    assert {row["asset"]: row["total"] for row in rows}["embedded/adapter"] == 5
    both = json.loads(invoke("status", "--json")[1])
    assert {row["study"] for row in both} == {"small", "large"}


def test_sql_before_anything_was_run(invoke: Invoke) -> None:
    code, _, err = invoke("sql", "SELECT 1")
    assert code == 1
    assert "warehouse.duckdb does not exist yet: run a study first" in err


def test_help_needs_no_heavy_library() -> None:
    code = "import sys; import persona_assets.cli.app; print(*(n for n in ('dagster', 'torch', 'polars') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
