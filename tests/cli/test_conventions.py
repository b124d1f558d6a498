"""What holds for the whole command line: JSON where output is data, exit codes, completion, any working directory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from deployments import PROFILE, SMALL, Site

from persona_assets.cli.app import app, main

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
DATA = ("run", "status", "import", "report", "sql", "lint", "estimate", "doctor")


def invoke(site: Site, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process on a deployment."""
    for name, value in site.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["persona-assets", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", DATA)
def test_output_that_is_data_is_to_be_had_as_json(command: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[command].params for option in parameter.opts}


def test_the_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["persona-assets", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done; 1 it could not be done" in said
    assert "2 the command was written wrongly" in said


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_has_examples_that_are_taken(name: str) -> None:
    command = COMMANDS[name]
    title, *examples = command.epilog.split("\n\n")
    assert title == "Examples:" and examples
    for example in examples:
        program, called, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, called) == ("persona-assets", name)
        command.make_context(name, arguments)  # a UsageError where it is written wrongly


@pytest.mark.parametrize(
    ("words", "offered"), [("persona-assets run n", {"n12", "n24", "n48"}), ("persona-assets re", {"report"})]
)
def test_the_shell_completes_commands_and_studies(tmp_path: Path, words: str, offered: set[str]) -> None:
    code = "from persona_assets.cli.app import main; main()"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")},
        "_PERSONA_ASSETS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert offered <= set(done.stdout.split()), done.stderr


@pytest.mark.slow
def test_report_as_json(
    small_site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # any directory will do
    assert invoke(small_site, monkeypatch, "report", "small", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stale"] is False
    for name in ("page", "overview", "markdown"):
        assert Path(found[name]).is_file()
    assert f"<h1>{found['headline']}</h1>" in Path(found["page"]).read_text(encoding="utf-8").replace("&quot;", '"')


@pytest.mark.slow
def test_findings_of_the_lint_as_json(
    small_site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = small_site.lake / PROFILE / "small" / "clean_result" / "report.md"
    assert invoke(small_site, monkeypatch, "lint", str(report), "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    broken = tmp_path / "broken.md"
    broken.write_text(report.read_text(encoding="utf-8").replace("**Main takeaways:**", "Takeaways:", 1), encoding="utf-8")
    assert invoke(small_site, monkeypatch, "lint", str(broken), "--json") == 1
    [finding] = json.loads(capsys.readouterr().out)
    assert finding["rule"] == "takeaways"
    assert finding["line"] > 1


@pytest.mark.slow
def test_run_as_json(small_site: Site) -> None:
    """The object on the output is what the table shows; progress goes elsewhere."""
    done = small_site.cli("run", "small", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stderr.count(": unchanged") == 4
    assert result["worked"] is False and result["seconds"] > 0
    printed = (small_site.root / "printed.txt").read_text(encoding="utf-8")
    shown = " ".join(printed.split())
    assert [rate["persona"] for rate in result["source_rates"]] == list(SMALL)
    for rate in result["source_rates"]:
        line = next(line for line in printed.splitlines() if line.split()[:1] == [rate["persona"]])
        rounded = [f"{rate[name]:.2f}" for name in ("rate", "wilson_low", "wilson_high", "base_rate")]
        assert [word for word in line.split()[3:] if word != "to"] == [str(rate["seed"]), *rounded]
    analysis = result["analysis"]
    assert f"Bucket: {analysis['bucket']} Confidence: {analysis['confidence']} ({analysis['reasons']})" in shown
    assert f"Inherited drift: {analysis['drift']['verdict']}" in shown
    assert f"Largest |rho|: {analysis['strongest']['rho']:+.3f} at layer {analysis['strongest']['layer']} " in shown
    assert {gate["gate"] for gate in analysis["gates"]} == {"A", "B", "C"}
    assert Path(analysis["figures"]).is_dir() and Path(analysis["warehouse"]).is_file()


@pytest.mark.slow
def test_status_as_json(small_site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(small_site, monkeypatch, "status", "small", "--json") == 0
    rows = {row["asset"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[f"{PROFILE}/adapter"]["total"] == len(SMALL)
