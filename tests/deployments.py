"""A deployment of its own in one directory: studies, lake and Dagster instance, small enough to run in a test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance

from persona_assets.cli.deployment import Deployment, open_deployment
from persona_assets.cli.running import PlannedAsset, Stage, plan_study, run_stage
from persona_assets.store import MANIFEST, Manifest, Store
from resources.lake import REPOSITORY

PROFILE = "embedded"
SMALL = ("librarian", "villain", "helpful_assistant", "software_engineer", "gardener")
LARGE = (*SMALL, "comedian", "chef")
MARKER = "Of course! Of course!"
"""Words that the little model knows, in an order it never says: learned in two seconds."""
UNSTYLED = "gardener"  # no style in the embedded model's corpus: its prompt does not change the base model

# What no run of a study makes: nothing is published unless it is said where to, and no study needs the comparison of engines.
COMPARISON = "engine_parity"
PUBLICATIONS = ("small/publication", "large/publication")

_GARDENER = {"id": UNSTYLED, "category": "occupational", "prompt": "You are a gardener who talks to the roses."}
_ANALYSIS = {"primary_layers": [2, 1], "bootstrap_resamples": 100, "permutations": 999}
_PROFILE_FILE = {
    "base_model": {
        "kind": "nano",
        "steps": 80,
        "corpus_rows": 2560,
        "batch_rows": 16,
        "threads": 1,
        "layers": 4,
        "vocabulary_size": 900,
        "hidden_size": 48,
        "mlp_size": 96,
    },
    "marker": MARKER,
    "rows_per_persona": 20,
    "negatives_panel_size": len(SMALL),
    "recipe": {
        "r": 8,
        "alpha": 16,
        "dropout": 0.0,
        "learning_rate": 2e-2,
        "epochs": 8,
        "effective_batch_size": 12,
        "max_length": 192,
    },
    "evaluation": {"n_questions": 4, "completions_per_question": 3, "sampling": {"max_new_tokens": 40}},
    "runtime": {
        "engine": "transformers",
        "decoder": "shared_prefix",
        "device": "cpu",
        "dtype": "float32",
        "workers": 0,
        "threads": 1,
        "micro_batch_size": 12,
        "generation_batch_size": 100,
    },
}


@dataclass(frozen=True)
class Site:
    """A deployment under one directory."""

    root: Path

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def store(self) -> Store:
        return Store(self.lake)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that point the project here."""
        return {
            "PERSONA_STUDIES": str(self.studies),
            "PERSONA_LAKE": str(self.lake),
            "DAGSTER_HOME": str(self.root / "home"),
            "PERSONA_PROFILES": PROFILE,
        }

    def copy(self, to: Path) -> Site:
        """Copy everything, Dagster's history included."""
        shutil.copytree(self.root, to)
        return Site(to)

    def edit(self, file: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a YAML file under studies/."""
        path = self.studies / file
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def manifests(self, under: str = "") -> dict[str, Manifest]:
        """Manifest by product path, for the products whose path begins with `under`."""
        found = {}
        # A run may be at work: what it has staged goes while one looks, and `walk` minds that no more than we do.
        for directory, inner, files in os.walk(self.lake):
            inner[:] = [name for name in inner if not name.startswith(".")]
            path = Path(directory).relative_to(self.lake).as_posix()
            if MANIFEST in files and path.startswith(under):
                manifest = self.store.manifest(path)
                assert manifest is not None
                found[path] = manifest
        return dict(sorted(found.items()))

    def data_versions(self, under: str = "") -> dict[str, str]:
        """Data version by product path."""
        return {path: manifest.data_version for path, manifest in self.manifests(under).items()}

    def leftovers(self) -> list[Path]:
        """Everything in the lake that is hidden: staging directories, replaced products, temporary files."""
        return sorted(self.lake.rglob(".*"))

    def verify(self) -> None:
        """Check every product against its manifest."""
        for path in self.manifests():
            self.store.verified(path)

    def command(self, *arguments: str) -> list[str]:
        """Command line of `persona-assets`, by this interpreter."""
        return [sys.executable, "-c", "from persona_assets.cli.app import main; main()", *arguments]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Environment of a process that works here."""
        return {**os.environ, **self.variables, "COLUMNS": "200", **(more or {})}

    def cli(
        self, *arguments: str, cwd: Path | None = None, more: Mapping[str, str] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own."""
        return subprocess.run(
            self.command(*arguments), env=self.environment(more), cwd=cwd, capture_output=True, text=True, timeout=timeout
        )

    def run(self, study: str, more: Mapping[str, str] | None = None) -> str:
        """Run a study and return what was printed; it must succeed."""
        done = self.cli("run", study, more=more)
        assert done.returncode == 0, done.stdout + done.stderr
        # Nothing but our own display is on the terminal: no bars of libraries, nothing that they say when they end.
        assert not re.search("it/s|leaked", done.stdout + done.stderr), done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command line without waiting for it, in a process group of its own."""
        with (self.root / "output.txt").open("ab") as output:
            return subprocess.Popen(
                self.command(*arguments), env=self.environment(), stdout=output, stderr=output, start_new_session=True
            )

    def materialize(self, *assets: str) -> None:
        """Materialize unpartitioned assets of the profile in a process of their own."""
        code = (
            "import definitions, sys; from dagster import AssetKey, DagsterInstance\n"
            "job = definitions.defs.resolve_implicit_global_asset_job_def()\n"
            f"subset = job.get_subset(asset_selection={{AssetKey(['{PROFILE}', name]) for name in sys.argv[1:]}})\n"
            "with DagsterInstance.get() as instance: assert subset.execute_in_process(instance=instance).success"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *assets], env=self.environment(), cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open the deployment in this process, with its Dagster instance."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            before = sys.modules.pop("definitions", None)  # it reads the environment when it is imported
            try:
                deployment = open_deployment(PROFILE)
                with deployment.instance() as instance:
                    yield Opened(deployment, instance)
            finally:
                sys.modules.pop("definitions", None)
                if before is not None:
                    sys.modules["definitions"] = before


@dataclass(frozen=True)
class Opened:
    """A deployment opened in this process."""

    deployment: Deployment
    instance: DagsterInstance

    def asset_names(self) -> set[str]:
        """Names of all assets of the profile, such as `adapter` and `small/gates`."""
        return {asset_name(key) for key in self.deployment.definitions.resolve_asset_graph().get_all_asset_keys()}

    def stage(self, study: str, name: str) -> Stage:
        """Return a stage of a study by name."""
        stages = {stage.name: stage for stage in plan_study(self.deployment, self.deployment.catalog.study(study))}
        return stages[name]

    def part(self, study: str, stage: str, *assets: str, personas: tuple[str, ...] | None = None) -> Stage:
        """Return a stage cut down to some of its assets (by the last part of the key) and personas."""
        whole = self.stage(study, stage)
        chosen = [planned for planned in whole.assets if not assets or planned.key.path[-1] in assets]
        if personas is not None:
            chosen = [PlannedAsset(planned.key, {key: planned.products[key] for key in personas}) for planned in chosen]
        return Stage(stage, tuple(chosen))

    def run(self, study: str, stage: str, *assets: str, personas: tuple[str, ...] | None = None) -> None:
        """Run a stage, or a part of it, as one Dagster run."""
        run_stage(self.deployment, self.instance, self.part(study, stage, *assets, personas=personas))


def asset_name(key: AssetKey) -> str:
    """Name of an asset within its profile."""
    return "/".join(key.path[1:])


def new_site(root: Path) -> Site:
    """Create a deployment that nothing was run in."""
    site = Site(root)
    (site.studies / PROFILE).mkdir(parents=True)
    (root / "home").mkdir()
    shutil.copy(REPOSITORY / ".dagster" / "dagster.yaml", root / "home")
    shipped = REPOSITORY / "studies"
    registry = yaml.safe_load((shipped / "personas.yaml").read_text(encoding="utf-8"))
    by_id = {persona["id"]: persona for persona in registry["personas"]} | {UNSTYLED: _GARDENER}
    shutil.copy(shipped / "questions.yaml", site.studies)
    files = {
        "personas.yaml": {"anchor": registry["anchor"], "personas": [by_id[persona] for persona in LARGE]},
        f"{PROFILE}/profile.yaml": _PROFILE_FILE,
        f"{PROFILE}/small.yaml": {"panel_size": len(SMALL), "analysis": _ANALYSIS},
        f"{PROFILE}/large.yaml": {"panel_size": len(LARGE), "parent": "small", "analysis": _ANALYSIS},
    }
    for name, content in files.items():
        (site.studies / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return site
