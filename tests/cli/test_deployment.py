"""The command line on a study that was run: status, queries, other working directories."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from deployments import PROFILE, SMALL, Site

from persona_assets.cli.app import main

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


@pytest.fixture
def at_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process at the deployment."""
    for name, value in site.variables.items():
        monkeypatch.setenv(name, value)


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
@pytest.mark.usefixtures("at_site")
def test_sql_that_cannot_be_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], query: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["persona-assets", "sql", query])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert printed.err.startswith("persona-assets: ")
    assert said in printed.err
    assert printed.out == ""


def test_a_mistake_ends_without_a_traceback(site: Site) -> None:
    done = site.cli("sql", "SELEKT 1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def test_works_from_another_directory(site: Site, tmp_path: Path) -> None:
    """The installed command, with nothing of the repository in the working directory."""
    command = Path(sys.executable).with_name("persona-assets")
    assert command.is_file(), "the project is not installed in this environment"
    done = subprocess.run(
        [str(command), "run", "small"], cwd=tmp_path, env=site.environment(), capture_output=True, text=True, timeout=900
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




@pytest.mark.usefixtures("at_site")
class TestWriteUps:
    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["persona-assets", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    def test_report_says_where_it_is(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, "report", "small") == 0
        headline, page, markdown, overview = capsys.readouterr().out.splitlines()
        assert headline
        for line, label in ((page, "Page:"), (markdown, "Markdown:")):
            assert line.startswith(label)
            assert Path(line.split()[-1]).is_file()
            assert Path(line.split()[-1]).is_relative_to(site.lake / PROFILE / "small" / "clean_result")
        assert Path(overview.removeprefix("Overview: ")) == site.lake / PROFILE / "small" / "overview" / "overview.html"

    def test_report_that_was_not_written(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(monkeypatch, "report", "large") == 1
        assert capsys.readouterr().err == (
            "persona-assets: large has no write-up yet: run `persona-assets run large` first.\n"
        )

    def test_report_that_is_stale(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = site.copy(tmp_path / "site")
        copy.edit(f"{PROFILE}/small.yaml", lambda content: content["analysis"].update(alpha=0.01))
        monkeypatch.setenv("PERSONA_STUDIES", str(copy.studies))
        assert self.run(monkeypatch, "report", "small") == 0
        assert "has changed since: run `persona-assets run small` again." in capsys.readouterr().out

    def test_lint_of_what_was_written(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (markdown,) = (site.lake / PROFILE / "small" / "clean_result").glob("*.md")
        assert self.run(monkeypatch, "lint", str(markdown)) == 0
        assert "Nothing to complain about." in capsys.readouterr().out

    def test_lint_of_what_was_changed(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (markdown,) = (site.lake / PROFILE / "small" / "clean_result").glob("*.md")
        text = markdown.read_text(encoding="utf-8")
        rate = next(cell for cell in re.findall(r"\b0\.\d+\b", text) if cell not in ("0.05", "0.95"))
        copy = tmp_path / "changed.md"
        copy.write_text(text.replace(rate, "0.777", 1), encoding="utf-8")
        assert self.run(monkeypatch, "lint", str(copy)) == 1
        out = capsys.readouterr().out
        lines = zip(text.splitlines(), copy.read_text(encoding="utf-8").splitlines(), strict=True)
        line = 1 + next(number for number, (before, after) in enumerate(lines) if before != after)
        assert f"{copy}:{line}: " in out

    @pytest.mark.parametrize("text", [None, "# Nothing of ours\n"])
    def test_lint_of_something_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str | None
    ) -> None:
        file = tmp_path / "note.md"
        if text is not None:
            file.write_text(text, encoding="utf-8")
        assert self.run(monkeypatch, "lint", str(file)) == 1
        said = "cannot be read" if text is None else "does not say which study it is about"
        assert f"persona-assets: {file} {said}" in capsys.readouterr().err
