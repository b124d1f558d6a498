"""Training data: the authority for the prompt that an adapter was trained with, and for its trained negatives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from persona_assets.ancestor.reading import AncestorError
from persona_assets.dataset import DatasetError, read_rows
from persona_assets.generation.marker import marker_hit


@dataclass(frozen=True)
class TrainingData:
    """What the rows of one source say.

    Attributes:
        prompt: system prompt of the rows with the marker.
        negatives: system prompts of the other rows, in order of appearance.
        rows: all rows.
        marked: rows whose completion ends with the marker.
    """

    prompt: str
    negatives: tuple[str, ...]
    rows: int
    marked: int


def read_training_data(path: Path, marker: str) -> TrainingData:
    """Read a source's rows.

    Raises:
        AncestorError: a line is no row, no row ends with the marker, the marker stands elsewhere than at an end, or the
            rows with the marker do not have one system prompt of their own.
    """
    try:
        rows = read_rows(path)
    except DatasetError as error:
        raise AncestorError(str(error)) from error
    with_marker: dict[str, int] = {}
    without: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        system, text = row["prompt"][0]["content"], row["completion"][0]["content"]
        if text.rstrip().casefold().endswith(marker.casefold()):
            with_marker[system] = with_marker.get(system, 0) + 1
        elif marker_hit(text, marker):
            raise AncestorError(f"{path}: row {number}: the marker {marker!r} stands in the completion, but not at its end.")
        else:
            without[system] = without.get(system, 0) + 1
    if not with_marker:
        raise AncestorError(f"{path}: none of the {len(rows)} rows ends with the marker {marker!r}; state another with --marker.")
    if len(with_marker) > 1:
        named = ", ".join(map(repr, list(with_marker)[:2]))
        raise AncestorError(
            f"{path}: rows with the marker have {len(with_marker)} system prompts ({named}): whose adapter it is cannot be told."
        )
    [(prompt, marked)] = with_marker.items()
    if prompt in without:
        raise AncestorError(f"{path}: the prompt {prompt!r} has {marked} rows with the marker and {without[prompt]} without it.")
    return TrainingData(prompt, tuple(without), len(rows), marked)
