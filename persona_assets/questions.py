"""The questions of a study: those it trains on and those it evaluates on, never the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from persona_assets.yaml_files import FileModel, validate_file

Question = Annotated[str, StringConstraints(min_length=3, max_length=2000, strip_whitespace=True)]


class QuestionSet(FileModel):
    """Evaluation and training questions, disjoint up to case and white space."""

    evaluation: tuple[Question, ...] = Field(min_length=2)
    training: tuple[Question, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _check(self) -> QuestionSet:
        seen: dict[str, str] = {}
        for part, questions in (("evaluation", self.evaluation), ("training", self.training)):
            for question in questions:
                plain = " ".join(question.lower().split())
                if plain in seen:
                    where = f"twice in {part}" if seen[plain] == part else f"in {seen[plain]} and in {part}"
                    raise ValueError(f"the question {question!r} stands {where}")
                seen[plain] = part
        return self


def load_questions(path: Path) -> QuestionSet:
    """Read `questions.yaml`.

    Raises:
        ConfigurationError: with file, line, field and reason.
    """
    return validate_file(path, QuestionSet)
