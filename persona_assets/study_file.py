"""The file of a study as it stands under `studies/`, before what it refers to is put in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from persona_assets.imported import Imported
from persona_assets.inheritance import InheritedField
from persona_assets.recurrence import EVERY_MONDAY, Cron
from persona_assets.study import AnalysisPlan, Seed
from persona_assets.yaml_files import FileModel, read_mapping, validate_file

STUDY_NAME = r"^[a-z][a-z0-9_]{0,47}$"
StudyName = Annotated[str, StringConstraints(pattern=STUDY_NAME)]
Owner = Annotated[str, StringConstraints(pattern=r"^(team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]


class StudyFile(FileModel):
    """What stands in `studies/<profile>/<study>.yaml`; the file's name is the study's name."""

    name: StudyName
    panel_size: Annotated[int, Field(ge=4, description="the first so many personas of personas.yaml")]
    parent: StudyName | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (42,)
    analysis: AnalysisPlan
    owners: Annotated[tuple[Owner, ...], Field(description="mail addresses or team:name, shown in the UI")] = ()
    inherited_adapters: InheritedField = None
    re_evaluation_cron: Annotated[Cron, Field(description="when inherited adapters are measured again, UTC")] = EVERY_MONDAY

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: a training seed stands more than once")
        if self.parent == self.name:
            raise ValueError("parent: a study cannot be its own parent")
        return self


class ImportedStudyFile(FileModel):
    """What stands in the file of an imported study, as `persona-assets import` writes it; `analysis` may be edited."""

    name: StudyName
    imported: Imported
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    analysis: AnalysisPlan
    parent: None = None
    owners: Annotated[tuple[Owner, ...], Field(description="mail addresses or team:name, shown in the UI")] = ()

    @property
    def panel_size(self) -> int:
        """Number of sources."""
        return len(self.imported.personas)


AnyStudyFile = StudyFile | ImportedStudyFile


def read_study_file(path: Path) -> AnyStudyFile:
    """Read one study file.

    Raises:
        ConfigurationError: with file, line, field and reason.
    """
    if "imported" in read_mapping(path):
        return validate_file(path, ImportedStudyFile, {"name": path.stem})
    return validate_file(path, StudyFile, {"name": path.stem})
