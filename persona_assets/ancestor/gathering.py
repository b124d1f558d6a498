"""Everything under a directory of results, read, reconciled, and told: what is taken, left out, refused, and missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.ancestor.adapters import read_adapter
from persona_assets.ancestor.base_baseline import BaseCounts, read_base_baseline
from persona_assets.ancestor.centroids import Centroids, read_centroids
from persona_assets.ancestor.condition import Cell, Condition, read_condition
from persona_assets.ancestor.discovery import CONDITION_FILES, Found, discover
from persona_assets.ancestor.names import is_condition, parse_name
from persona_assets.ancestor.reading import AncestorError, count_of
from persona_assets.ancestor.regression_results import RegressionResults, read_regression_results
from persona_assets.ancestor.run_result import RUN_RESULT, why_skipped
from persona_assets.ancestor.training_data import TrainingData, read_training_data
from persona_assets.hashing import sha256_file
from persona_assets.panel import Category, Panel

Told = Literal["imported", "note", "skipped", "refused"]
Centring = Literal["panel", "none"]
ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class Options:
    """What the user says beside the files.

    Attributes:
        panel: personas of this project, for ids and categories.
        marker: the implanted string.
        prefer: file to believe where two of a condition disagree, with its suffix.
        condition: the one condition to import, for example `asst_excluded_medium`.
        seed: the one training seed to import; of a whole-study file, the seed its rates belong to.
        completions: completions behind each rate of a whole-study file.
        centring: of the cosines in a whole-study file.
        categories: by persona, for those that no file and no persona of this project gives.
    """

    panel: Panel
    marker: str
    prefer: str | None = None
    condition: str | None = None
    seed: int | None = None
    completions: int | None = None
    centring: Centring = "panel"
    categories: Mapping[str, Category] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One line of the account: what became of a file or directory."""

    told: Told
    place: str
    text: str


@dataclass
class Gathered:
    """What was read.

    Attributes:
        root: what the places in `lines` and `files` are relative to.
        lines: the account.
        files: sha256 by place of every file that was used.
        conditions: by source and training seed.
        study: whole-study file.
        base: the base model's counts by eval persona.
        centroids: as read.
        training: by source.
        adapters: digest by source and training seed.
    """

    root: Path
    lines: list[Line] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    conditions: dict[tuple[str, int], Condition] = field(default_factory=dict)
    study: RegressionResults | None = None
    base: dict[str, BaseCounts] = field(default_factory=dict)
    centroids: Centroids | None = None
    training: dict[str, TrainingData] = field(default_factory=dict)
    adapters: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def refused(self) -> list[Line]:
        """The lines about what is refused."""
        return [line for line in self.lines if line.told == "refused"]

    def place(self, path: Path) -> str:
        """Name a path in the account."""
        return path.relative_to(self.root).as_posix() if path != self.root else path.name

    def tell(self, told: Told, path: Path, text: str) -> None:
        """Add a line to the account."""
        self.lines.append(Line(told, self.place(path), text.replace(f"{self.root.as_posix()}/", "")))

    def use(self, *files: Path) -> None:
        """Record the digest of files that were used."""
        self.files |= {self.place(file): sha256_file(file) for file in files if file.is_file()}

    def attempt(self, path: Path, read: Callable[[], ReadT]) -> ReadT | None:
        """Read something, and put the reason into the account where it is refused."""
        try:
            return read()
        except AncestorError as error:
            self.tell("refused", path, str(error))
            return None


def gather(path: Path, options: Options) -> Gathered:
    """Read everything under a path.

    Raises:
        AncestorError: there is nothing that could be read; what is refused stands in the account instead.
    """
    path = path.resolve()
    found = discover(path)
    gathered = Gathered(path if path.is_dir() else path.parent)
    for place, why in found.skipped:
        gathered.tell("skipped", place, why)
    _read_study(gathered, found, options)
    known = {*options.panel.ids, *(gathered.study.personas if gathered.study else ())}
    _read_conditions(gathered, found, options, known)
    known |= {source for source, _ in gathered.conditions}
    _read_training_data(gathered, found, options, known)
    _read_adapters(gathered, found, options, known)
    _read_base(gathered, found)
    _read_centroids(gathered, found)
    if found.unknown:
        named = ", ".join(gathered.place(file) for file in found.unknown[:5])
        more = f" and {len(found.unknown) - 5} more" if len(found.unknown) > 5 else ""
        files = "file" if len(found.unknown) == 1 else "files"
        gathered.tell("skipped", gathered.root, f"{len(found.unknown)} {files} of no known layout: {named}{more}")
    return gathered


def _only(gathered: Gathered, files: list[Path], what: str) -> Path | None:
    """The one file of a layout that a study can have."""
    if len(files) > 1:
        places = ", ".join(gathered.place(file) for file in files)
        for file in files:
            gathered.tell("refused", file, f"there are {len(files)} {what} ({places}): import a directory that has one of them")
        return None
    return files[0] if files else None


def _read_study(gathered: Gathered, found: Found, options: Options) -> None:
    file = _only(gathered, found.studies, "whole-study files")
    if file is None:
        return

    def read() -> RegressionResults:
        study = read_regression_results(file, options.panel.anchor)
        if options.centring == "panel":
            positive = [layer for layer, cosines in study.cosines.items() if min(cosines.values()) > 0]
            if positive:
                raise AncestorError(
                    f"{file}: at layer {positive[0]} every cosine is positive, which cosines centred on the panel's mean cannot "
                    "be: state --centring none."
                )
        return study

    gathered.study = gathered.attempt(file, read)
    if gathered.study is not None:
        gathered.use(file)
        layers = ", ".join(map(str, gathered.study.cosines))
        text = f"whole study: {len(gathered.study.personas)} source rates, prompt lengths, cosines at layers {layers}"
        gathered.tell("imported", file, text)


def _read_conditions(gathered: Gathered, found: Found, options: Options, known: set[str]) -> None:
    read: list[Condition] = []
    for directory in found.conditions:
        if (directory / RUN_RESULT).is_file():
            try:
                why = why_skipped(directory / RUN_RESULT)
            except AncestorError as error:
                gathered.tell("refused", directory, str(error))
                continue
            if why is not None:
                gathered.tell("skipped", directory, why)
                continue
        condition = gathered.attempt(
            directory,
            lambda directory=directory: read_condition(directory, known, options.marker, options.prefer),  # type: ignore[misc]
        )
        if condition is not None:
            read.append(condition)
    for condition in read:
        other = options.condition not in (None, condition.name.condition) or options.seed not in (None, condition.name.seed)
        if other:
            gathered.tell("skipped", condition.directory, "another condition or seed than the one asked for")
    wanted = [c for c in read if options.condition in (None, c.name.condition) and options.seed in (None, c.name.seed)]
    kinds = sorted({condition.name.condition for condition in wanted})
    if len(kinds) > 1:
        for condition in wanted:
            text = f"a study has one condition, and there are {len(kinds)}: choose with --condition out of {', '.join(kinds)}"
            gathered.tell("refused", condition.directory, text)
        return
    for condition in wanted:
        seed = condition.name.seed
        assert seed is not None  # a condition directory has one
        key = (condition.name.source, seed)
        if key in gathered.conditions:
            first = gathered.place(gathered.conditions[key].directory)
            gathered.tell("refused", condition.directory, f"{key[0]}, seed {seed}, stands in {first} already")
            continue
        gathered.conditions[key] = condition
        gathered.use(*(condition.directory / name for name in CONDITION_FILES if name in condition.files))
        own = condition.cells[condition.name.source]
        text = f"source rate {own}, {len(condition.cells)} eval personas, from {', '.join(condition.files)}"
        gathered.tell("imported", condition.directory, text)
        for note in condition.notes:
            gathered.tell("note", condition.directory, note)


def _read_training_data(gathered: Gathered, found: Found, options: Options, known: set[str]) -> None:
    places: dict[str, Path] = {}
    for file in found.training_data:

        def read(file: Path = file) -> tuple[str, TrainingData] | None:
            name = parse_name(file.name.removesuffix(".jsonl"), known, str(file))
            if options.condition not in (None, name.condition):
                gathered.tell("skipped", file, "another condition than the one asked for")
                return None
            if name.source in places:
                raise AncestorError(
                    f"{file}: {gathered.place(places[name.source])} is training data of {name.source} as well: choose one with "
                    "--condition."
                )
            return name.source, read_training_data(file, options.marker)

        taken = gathered.attempt(file, read)
        if taken is not None:
            source, data = taken
            places[source], gathered.training[source] = file, data
            gathered.use(file)
            text = f"prompt of {source} and {len(data.negatives)} negatives, from {data.rows} rows, {data.marked} with the marker"
            gathered.tell("imported", file, text)


def _read_adapters(gathered: Gathered, found: Found, options: Options, known: set[str]) -> None:
    for directory in found.adapters:

        def read(directory: Path = directory) -> tuple[tuple[str, int], str] | None:
            named = next((d.name for d in (directory, *directory.parents) if is_condition(d.name)), None)
            if named is None:
                raise AncestorError(
                    f"{directory}: whose adapter it is cannot be told: no directory on its path is called "
                    "marker_<source>_<negset>_<length>_seed<seed>."
                )
            name = parse_name(named, known, str(directory))
            if options.condition not in (None, name.condition) or options.seed not in (None, name.seed):
                gathered.tell("skipped", directory, "another condition or seed than the one asked for")
                return None
            assert name.seed is not None
            return (name.source, name.seed), read_adapter(directory).digest

        taken = gathered.attempt(directory, read)
        if taken is None:
            continue
        key, digest = taken
        if gathered.adapters.get(key, digest) != digest:
            gathered.tell("refused", directory, f"another adapter of {key[0]}, seed {key[1]}, lies beside this one")
            continue
        gathered.adapters[key] = digest
        gathered.use(directory / CONFIG_FILE, directory / WEIGHTS_FILE)
        gathered.tell("imported", directory, f"digest of the adapter of {key[0]}, seed {key[1]}: {digest[:12]}…")


def _read_base(gathered: Gathered, found: Found) -> None:
    file = _only(gathered, found.baselines, "base baselines")
    base = None if file is None else gathered.attempt(file, lambda: read_base_baseline(file))
    if file is not None and base is not None:
        gathered.base = base
        gathered.use(file)
        gathered.tell("imported", file, f"base rates under {len(base)} personas, the highest {_highest(base.values()):g}")


def _highest(counts: Iterable[BaseCounts]) -> float:
    return max(each.hits / each.n for each in counts)


def _read_centroids(gathered: Gathered, found: Found) -> None:
    file = _only(gathered, found.centroids, "files of centroids")
    gathered.centroids = None if file is None else gathered.attempt(file, lambda: read_centroids(file))
    if file is not None and gathered.centroids is not None:
        gathered.use(file)
        layers = ", ".join(map(str, gathered.centroids.layers))
        gathered.tell("imported", file, f"centroids of {len(gathered.centroids.vectors)} personas at layers {layers}")


def rows_of_study(study: RegressionResults, options: Options) -> dict[str, Cell]:
    """The cells on the diagonal that a whole-study file gives.

    Raises:
        AncestorError: the completions behind its rates are not stated, or do not give them.
    """
    if options.completions is None:
        raise AncestorError(
            "regression_results.json does not record how many completions are behind a rate: state it with --completions "
            "(100 for 20 questions with 5 completions)."
        )
    n = options.completions
    return {
        persona: Cell(count_of(rate, n, f"regression_results.json: source_rates: {persona}"), n)
        for persona, rate in study.source_rates.items()
    }
