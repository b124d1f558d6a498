"""Read the YAML files under `studies/`, with errors that name file, line, field and reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from persona_assets.errors import ConfigurationError

ModelT = TypeVar("ModelT", bound=BaseModel)

# A validator of several fields together begins with the one that is to be changed.
_FIELD_FIRST = re.compile(r"(?P<field>[a-z_]+(?:\.[a-z_]+)*): (?P<reason>.+)", re.DOTALL)


class FileModel(BaseModel):
    """Base of what is read from a file: it does not change, and a field that it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_mapping(path: Path) -> dict[str, object]:
    """Read one YAML file whose top level is a mapping.

    Raises:
        ConfigurationError: the file is absent, is not YAML, repeats a key, or is not a mapping.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a mapping of fields at the top level.")
    return content


def validate_file(path: Path, model: type[ModelT], extra: dict[str, object] | None = None) -> ModelT:
    """Read a YAML file into a pydantic model.

    Args:
        path: the file.
        model: the pydantic model it must satisfy.
        extra: fields that come from elsewhere (for example the name that the file's path gives).

    Raises:
        ConfigurationError: one line per offending field, each with file, line, field and reason.
    """
    content = read_mapping(path)
    clash = sorted(set(content) & set(extra or {}))
    if clash:
        raise mistake(path, clash[0], "given by the file's place, not in the file.")
    try:
        return model.model_validate(content | (extra or {}))
    except ValidationError as error:
        raise ConfigurationError(_describe(path, error)) from error


def model_from(model: type[ModelT], content: dict[str, object], what: str) -> ModelT:
    """Make a pydantic model of values that come from no file.

    Args:
        model: the model.
        content: its fields.
        what: for the message.

    Raises:
        ConfigurationError: one line per offending field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ConfigurationError(f"{what} cannot be written as a study file: {'; '.join(told)}") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"the key {key!r} stands twice",
                    node.value[position][0].start_mark,
                )
        return super().construct_mapping(node, deep)


def mistake(path: Path, field: str, reason: str) -> ConfigurationError:
    """Say why a field that is acceptable by itself is not: with file, line, field (dotted) and reason."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return ConfigurationError(f"{path}:{_line_of(root, tuple(field.split('.')))}: {field}: {reason}")


def _describe(path: Path, error: ValidationError) -> str:
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    lines = []
    for problem in error.errors():
        location, reason = problem["loc"], problem["msg"].removeprefix("Value error, ")
        if named := _FIELD_FIRST.fullmatch(reason):
            location, reason = (*location, *named["field"].split(".")), named["reason"]
        field = ".".join(str(part) for part in location) or "(whole file)"
        given = problem.get("input")
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
        lines.append(f"{path}:{_line_of(root, location)}: {field}: {reason}{shown}")
    return "\n".join(lines)


def _line_of(root: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Find the line (from 1) of the deepest part of a field's path that stands in the file."""
    node, line = root, 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
