"""A profile with all its studies, read from `studies/` and checked against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from persona_assets.errors import ConfigurationError
from persona_assets.inheritance import AdapterKey, inherited_references, shared_references
from persona_assets.panel import Panel, load_panel
from persona_assets.questions import QuestionSet, load_questions
from persona_assets.registry.reference import AdapterReference
from persona_assets.study import Profile, Study
from persona_assets.study_file import AnyStudyFile, ImportedStudyFile, read_study_file
from persona_assets.yaml_files import mistake, validate_file

PROFILE_FILE = "profile.yaml"


@dataclass(frozen=True)
class Catalog:
    """A profile with its studies, the whole panel, the questions, and the adapters that are pulled instead of trained."""

    profile: Profile
    panel: Panel
    questions: QuestionSet
    studies: dict[str, Study]
    inherited_adapters: Mapping[AdapterKey, AdapterReference] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every training seed that a study measured here uses, in order of first use."""
        return tuple(dict.fromkeys(seed for study in self.studies.values() if study.imported is None for seed in study.seeds))

    @property
    def owners(self) -> tuple[str, ...]:
        """Who answers for what the studies share: the owners of all of them, each once."""
        return tuple(dict.fromkeys(owner for study in self.studies.values() for owner in study.owners))

    def study(self, name: str) -> Study:
        """Return a study by name.

        Raises:
            ConfigurationError: there is none; the message lists those there are.
        """
        if name not in self.studies:
            raise ConfigurationError(
                f"There is no study {name!r} in profile {self.profile.name}; there are: {', '.join(self.studies)}."
            )
        return self.studies[name]


def profile_names(studies_directory: Path) -> tuple[str, ...]:
    """List the profiles under `studies/`, sorted."""
    return tuple(sorted(path.parent.name for path in studies_directory.glob(f"*/{PROFILE_FILE}")))


def load_catalog(studies_directory: Path, profile_name: str) -> Catalog:
    """Read a profile and all its studies, parents before children.

    Raises:
        ConfigurationError: with file, line, field and reason.
    """
    directory = studies_directory / profile_name
    profile_file = directory / PROFILE_FILE
    if not profile_file.is_file():
        raise ConfigurationError(
            f"There is no profile {profile_name!r}: {profile_file} does not exist. "
            f"Profiles there are: {', '.join(profile_names(studies_directory)) or 'none'}."
        )
    profile = validate_file(profile_file, Profile, {"name": profile_name})
    panel = load_panel(studies_directory / "personas.yaml")
    questions = load_questions(studies_directory / "questions.yaml")
    _check_profile(profile_file, profile, panel, questions)
    files = {path.stem: (path, read_study_file(path)) for path in sorted(directory.glob("*.yaml")) if path != profile_file}
    if all(isinstance(file, ImportedStudyFile) for _, file in files.values()):
        raise ConfigurationError(f"{directory}: the profile has no study: add a file such as n12.yaml.")
    studies: dict[str, Study] = {}
    for name in _parents_first(files):
        path, file = files[name]
        studies[name] = _assemble(path, file, profile, panel, questions, studies)
    return Catalog(profile, panel, questions, studies, shared_references(directory, studies))


def _check_profile(path: Path, profile: Profile, panel: Panel, questions: QuestionSet) -> None:
    if profile.negatives_panel_size > len(panel):
        raise mistake(
            path,
            "negatives_panel_size",
            f"{profile.negatives_panel_size} exceeds the {len(panel)} personas of personas.yaml.",
        )
    # The source is one of the candidates at worst, so one more than the negatives must remain.
    candidates = set(panel.ids[: profile.negatives_panel_size]) - {panel.anchor, *profile.negatives_exclude}
    if len(candidates) < profile.n_negatives + 1:
        raise mistake(
            path,
            "n_negatives",
            f"{profile.n_negatives} negatives cannot be drawn from {len(candidates)} candidate personas "
            f"(the first {profile.negatives_panel_size} of personas.yaml without anchor and excluded ones).",
        )
    if profile.evaluation.n_questions > len(questions.evaluation):
        raise mistake(
            path,
            "evaluation.n_questions",
            f"{profile.evaluation.n_questions} exceeds the {len(questions.evaluation)} evaluation questions of questions.yaml.",
        )
    if profile.rows_per_persona > len(questions.training):
        raise mistake(
            path,
            "rows_per_persona",
            f"{profile.rows_per_persona} rows need as many training questions, and questions.yaml has {len(questions.training)}.",
        )


def _parents_first(files: dict[str, tuple[Path, AnyStudyFile]]) -> list[str]:
    ordered: list[str] = []
    waiting = sorted(files, key=lambda name: (files[name][1].panel_size, name))
    while waiting:
        ready = [name for name in waiting if files[name][1].parent in (None, *ordered)]
        if not ready:
            path, file = files[waiting[0]]
            missing = file.parent not in files
            reason = "there is no such study" if missing else "the parents form a circle"
            raise mistake(path, "parent", f"{file.parent!r}: {reason}.")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _assemble(
    path: Path, file: AnyStudyFile, profile: Profile, panel: Panel, questions: QuestionSet, studies: dict[str, Study]
) -> Study:
    if isinstance(file, ImportedStudyFile):
        imported = file.imported
        return Study(
            file.name, profile, imported.panel, questions, None, file.seeds, file.analysis, owners=file.owners, imported=imported
        )
    try:
        own_panel = panel.prefix(file.panel_size)
    except ConfigurationError as error:
        raise mistake(path, "panel_size", str(error)) from error
    parent = None if file.parent is None else studies[file.parent]
    if parent is not None and parent.imported is not None:
        if not set(parent.panel.ids) & set(own_panel.ids):
            raise mistake(
                path,
                "parent",
                f"the imported study {parent.name} has none of the {len(own_panel)} personas of this panel, so there is nothing "
                f"to inherit; it has {', '.join(parent.panel.ids)}.",
            )
    elif parent is not None and len(parent.panel) > len(own_panel):
        raise mistake(
            path,
            "panel_size",
            f"{file.panel_size} is smaller than the {len(parent.panel)} of its parent {parent.name}; a child study appends to "
            f"its parent's panel.",
        )
    layers = profile.base_model.layers
    too_deep = [layer for layer in file.analysis.primary_layers if layer >= layers]
    if too_deep:
        what = f"layer {too_deep[0]} does not exist, the base model has layers 0 to {layers - 1}."
        raise mistake(path, "analysis.primary_layers", what)
    corpus = None if file.analysis.reference_corpus is None else path.parent / file.analysis.reference_corpus
    if corpus is not None and not corpus.is_file():
        raise mistake(path, "analysis.reference_corpus", f"{corpus} is no file; paths are relative to the study file.")
    return Study(
        name=file.name,
        profile=profile,
        panel=own_panel,
        questions=questions,
        parent=parent,
        seeds=file.seeds,
        analysis=file.analysis,
        reference_corpus=corpus,
        owners=file.owners,
        inherited_adapters=inherited_references(path, file.inherited_adapters, own_panel.ids, file.seeds),
        re_evaluation_cron=file.re_evaluation_cron,
    )
