"""The command line on a study that was run: status, queries, other working directories."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from deployments import PROFILE, SMALL, Site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(small_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return small_site.copy(tmp_path_factory.mktemp("cli") / "site")


def test_status_as_json(site: Site) -> None:
    done = site.cli("status", "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)
    found = {(row["study"], row["asset"]): row for row in rows}
    own = [row for (study, _), row in found.items() if study == "small"]
    assert all(row["done"] == row["total"] for row in own)
    # The larger study inherits what its personas share with the smaller one.
    adapters = found["large", f"{PROFILE}/adapter"]
    assert (adapters["total"], adapters["done"], adapters["missing"]) == (7, 5, 2)
    cells = found["large", f"{PROFILE}/large/eval_cells"]
    assert (cells["total"], cells["done"], cells["missing"]) == (7, 0, 7)


def test_status_as_a_table(site: Site) -> None:
    done = site.cli("status", "small")
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["study", "asset", "done", "missing", "failed", "stale"]
    assert [f"{PROFILE}/adapter", "5", "0", "0", "0"] in lines


def test_sql(site: Site) -> None:
    rates = pl.read_parquet(site.lake / PROFILE / "small" / "tables" / "source_rates" / "source_rates.parquet")
    query = "SELECT persona, rate FROM small.source_rates ORDER BY persona"
    done = site.cli("sql", query, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == rates.select("persona", "rate").sort("persona").to_dicts()
    shown = site.cli("sql", query)
    assert shown.returncode == 0
    assert f"{len(SMALL)} rows" in shown.stdout
    for row in rates.to_dicts():
        assert [row["persona"], f"{row['rate']:.4g}"] in [line.split() for line in shown.stdout.splitlines()]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nothing FROM small.source_rates", 'Referenced column "nothing" not found'),
        ("SELECT * FROM n13.source_rates", "n13"),
        ("SELEKT 1", "syntax error"),
        ("DELETE FROM small.source_rates", "read-only"),
        ("CREATE TABLE t (a INT)", "read-only"),
        ("", "returns no rows"),
    ],
)
def test_sql_that_cannot_be_answered(site: Site, query: str, said: str) -> None:
    done = site.cli("sql", query)
    assert done.returncode == 1
    assert done.stderr.startswith("persona-assets: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_works_from_another_directory(site: Site, tmp_path: Path) -> None:
    """The installed command, with nothing of the repository in the working directory."""
    command = Path(sys.executable).with_name("persona-assets")
    assert command.is_file(), "the project is not installed in this environment"
    done = subprocess.run(
        [str(command), "run", "small"], cwd=tmp_path, env=site.environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "small unchanged: nothing to do" in done.stdout
    assert str(site.lake / PROFILE / "warehouse.duckdb") in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_finds_the_repository_without_variables(tmp_path: Path) -> None:
    """Studies, lake and Dagster instance are those of the repository, whatever the working directory."""
    code = (
        "import os, persona_assets.cli.deployment as d; from pathlib import Path;"
        "d.Path.mkdir = lambda *a, **k: None;"
        "x = d.open_deployment('embedded'); print(*(os.environ[n] for n in ('PERSONA_STUDIES', 'PERSONA_LAKE', 'DAGSTER_HOME')));"
        "print(*x.catalog.studies)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    places, studies = done.stdout.splitlines()
    root = Path(places.split()[0]).parent
    assert places.split() == [str(root / "studies"), str(root / "data_lake"), str(root / ".dagster")]
    assert studies.split() == ["n12", "n24", "n48"]


def test_a_study_of_a_missing_warehouse_file(site: Site, tmp_path: Path) -> None:
    copy = site.copy(tmp_path / "site")
    shutil.rmtree(copy.lake)
    done = copy.cli("sql", "SELECT 1")
    assert done.returncode == 1
    assert "does not exist yet" in done.stderr
