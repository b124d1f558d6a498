"""What lies under a directory of results: which file has which layout, and what is not looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.ancestor import centroids
from persona_assets.ancestor.base_baseline import BASE_BASELINE
from persona_assets.ancestor.marker_eval import MARKER_EVAL, RAW_COMPLETIONS
from persona_assets.ancestor.names import is_training_data
from persona_assets.ancestor.reading import AncestorError
from persona_assets.ancestor.regression_results import REGRESSION_RESULTS
from persona_assets.ancestor.run_result import RUN_RESULT

CONDITION_FILES = (RUN_RESULT, MARKER_EVAL, RAW_COMPLETIONS)
_PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth")
_BESIDE_AN_ADAPTER = (
    *("tokenizer", "chat_template", "README", "special_tokens", "added_tokens", "vocab", "merges"),
    "generation_config",
)
_WITH_CONDITION = ("config.json", "dynamics.json", ".png", ".pdf", ".log", ".txt", ".md")


@dataclass
class Found:
    """Files by layout, each list sorted.

    Attributes:
        conditions: directories with a run_result.json, marker_eval.json or raw_completions.json.
        studies: regression_results.json files.
        baselines: base_baseline.json files.
        centroids: centroids_n*_layers*.pt files.
        training_data: marker_*.jsonl files.
        adapters: directories with an adapter_config.json.
        skipped: (place, why) of what is known and left out.
        unknown: everything else.
    """

    conditions: list[Path] = field(default_factory=list)
    studies: list[Path] = field(default_factory=list)
    baselines: list[Path] = field(default_factory=list)
    centroids: list[Path] = field(default_factory=list)
    training_data: list[Path] = field(default_factory=list)
    adapters: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)


def discover(path: Path) -> Found:
    """Sort the files under a path by layout; symbolic links to directories are not followed.

    Raises:
        AncestorError: there is no such path, or nothing under it has a known layout.
    """
    if not path.exists():
        raise AncestorError(f"{path}: no such file or directory.")
    found = Found()
    for directory, names in _walk(path, found):
        if any(name in names for name in CONDITION_FILES):
            found.conditions.append(directory)
        if CONFIG_FILE in names:
            found.adapters.append(directory)
        for name in names:
            _sort(directory / name, names, found)
    if not any((found.conditions, found.studies, found.baselines, found.centroids, found.training_data, found.adapters)):
        raise AncestorError(
            f"{path}: nothing here has a known layout (condition directories with {RUN_RESULT}, {REGRESSION_RESULTS}, "
            f"{BASE_BASELINE}, centroids_n*_layers*.pt, marker_*.jsonl, adapter directories)."
        )
    return found


def _walk(path: Path, found: Found) -> Iterator[tuple[Path, list[str]]]:
    if path.is_file():
        yield path.parent, [path.name]
        return
    for directory, directories, names in os.walk(path):
        for name in sorted(directories):
            if name.startswith("checkpoint-"):
                found.skipped.append((Path(directory) / name, "a checkpoint within a training; the adapter itself is taken"))
        directories[:] = sorted(name for name in directories if not name.startswith(("checkpoint-", ".")))
        yield Path(directory), sorted(names)


def _sort(file: Path, beside: list[str], found: Found) -> None:
    name = file.name
    if name in (*CONDITION_FILES, CONFIG_FILE, WEIGHTS_FILE):
        return
    if name == REGRESSION_RESULTS:
        found.studies.append(file)
    elif name == BASE_BASELINE:
        found.baselines.append(file)
    elif centroids.NAME.fullmatch(name):
        found.centroids.append(file)
    elif is_training_data(name):
        found.training_data.append(file)
    elif name.endswith(_PICKLES):
        found.skipped.append((file, "a pickle: never opened"))
    elif CONFIG_FILE in beside and name.startswith(_BESIDE_AN_ADAPTER):
        return
    elif not (any(each in beside for each in CONDITION_FILES) and name.endswith(_WITH_CONDITION)):
        found.unknown.append(file)
