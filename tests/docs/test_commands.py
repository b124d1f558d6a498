"""Every command of the README and of docs/ is run, or checked to exist; every link leads somewhere.

How a block is treated stands after `sh` in the source: nothing (run), `on-a-copy` (run on a copy of the shipped studies with
an empty lake), `serves`, `suite`, `long`, `gpu`, `network` (need more than a test has: every command and option must exist).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from deployments import PROFILE, Site, new_site

from persona_assets.cli.app import app
from resources.lake import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph")]

FENCE = re.compile(r"^```sh *(?P<kind>[\w-]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
ORDER = ("README.md", "docs/run-the-demo.md", "docs/read-a-result.md")
"""The pages whose commands build on each other; the others follow."""
CHECKED = ("serves", "suite", "long", "gpu", "network")
FOREIGN = ("pip", "nvidia-smi", "hf", "wandb")
"""Programs of others that a marked block may name, though this machine lacks them."""
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")


def pages() -> list[Path]:
    others = sorted(REPOSITORY.glob("docs/*.md"))
    first = [REPOSITORY / name for name in ORDER]
    return [*first, *(page for page in others if page not in first)]


def blocks(*kinds: str) -> Iterator[tuple[str, str]]:
    """(place, commands) of the blocks of some kinds, in the order in which they are read."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            if found["kind"] in kinds:
                line = text[: found.start()].count("\n") + 1
                yield f"{page.relative_to(REPOSITORY)}:{line}", found["body"]


def not_yet_run(body: str, commands: set[str]) -> str:
    """Leave out of a block what an earlier page has had run word for word, and remember the rest."""
    left = []
    for line in body.splitlines():
        command = line.partition(" # ")[0].strip()
        if command not in commands:
            commands.add(command)
            left.append(line)
    return "\n".join(left)


def run(body: str, site: Site) -> subprocess.CompletedProcess[str]:
    """Run a block as it stands, in a directory that looks like the repository."""
    programs = Path(sys.executable).parent
    # The environment is there: make must neither build it nor look at it.
    options = f"--no-print-directory -C {shlex.quote(str(REPOSITORY))} -o .venv/.installed BIN={programs}"
    make = f'make() {{ command make {options} "$@"; }}\n'
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", make + body],
        env=site.environment({"PATH": path}),
        cwd=site.root,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def site(large_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The small deployment with two studies of its personas, the smallest that there can be, under the names of the pages."""
    site = large_site.copy(tmp_path_factory.mktemp("docs") / "site")
    for old, new, fields in (("small", "n12", {"panel_size": 4}), ("large", "n24", {"panel_size": 5, "parent": "n12"})):
        study = (site.studies / PROFILE / f"{old}.yaml").rename(site.studies / PROFILE / f"{new}.yaml")
        study.write_text(yaml.safe_dump(yaml.safe_load(study.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    (site.root / "data_lake").symlink_to(site.lake)
    return site


@pytest.fixture
def shipped(tmp_path: Path) -> Site:
    """The studies as they are shipped, and nothing made."""
    site = new_site(tmp_path / "site")
    shutil.rmtree(site.studies)
    shutil.copytree(REPOSITORY / "studies", site.studies)
    return site


def test_every_block_is_of_a_kind_that_is_treated() -> None:
    for page in pages():
        for line, fence in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if fence.startswith("```sh"):
                kind = fence.removeprefix("```sh").strip()
                assert kind in ("", "on-a-copy", *CHECKED), f"{page.name}:{line}: {fence}"
            assert not fence.startswith(("```bash", "```shell", "```console")), f"{page.name}:{line}: mark commands `sh`"


@pytest.mark.timeout(1500)
def test_the_commands_of_the_pages_run_in_order(site: Site) -> None:
    commands: set[str] = set()
    there = [(place, left) for place, body in blocks("") if (left := not_yet_run(body, commands))]
    assert len(commands) > 12
    for place, body in there:
        done = run(body, site)
        assert done.returncode == 0, f"{place}\n{body}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_commands_for_a_copy_of_the_shipped_studies_run(shipped: Site) -> None:
    there = list(blocks("on-a-copy"))
    assert there
    for place, body in there:
        done = run(body, shipped)
        assert done.returncode == 0, f"{place}\n{body}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "n49" in done.stdout


def test_commands_that_need_more_than_a_test_has_exist() -> None:
    there = list(blocks(*CHECKED))
    assert there
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    for place, body in there:
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
            if not words or words[0] == "export":
                continue
            program, *arguments = words
            if Path(program).name == "persona-assets":
                command = commands[arguments[0]]  # KeyError: the page names a command that does not exist
                known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
                asked = {argument.partition("=")[0] for argument in arguments[1:] if argument.startswith("-")}
                assert asked <= known | {"-h", "--help"}, f"{place}: {line}"
            elif program == "make":
                subprocess.run(["make", "-n", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True)
            else:
                assert shutil.which(program) or program in FOREIGN, f"{place}: {line}"
                scripts = [argument for argument in arguments if argument.endswith(".py")]
                assert all((REPOSITORY / script).is_file() for script in scripts), f"{place}: {line}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_index_is_complete() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in REPOSITORY.glob("docs/*.md") if page.name != "README.md" and f"({page.name})" not in index]
    assert missing == [], "name them in docs/README.md"
