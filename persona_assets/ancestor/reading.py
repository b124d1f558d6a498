"""Reading JSON that other scripts wrote: refused with file, field and reason when it is not what its layout says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from persona_assets import strict_json
from persona_assets.errors import PersonaAssetsError

ModelT = TypeVar("ModelT", bound=BaseModel)
_SHOWN = 5


class AncestorError(PersonaAssetsError):
    """A file of an earlier study that cannot be imported; the text names the file and the reason."""


class Layout(BaseModel):
    """Base of the layouts: keys that are not named are ignored, types are not converted."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


def written_boolean(value: object) -> object:
    """Give the boolean behind the texts "True" and "False", as which the scripts wrote some; other values as they are."""
    return {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value


WrittenBoolean = Annotated[bool, BeforeValidator(written_boolean)]
Rate = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AncestorError: it cannot be read, is not UTF-8 or not JSON, holds NaN or Infinity, or has a key twice.
    """
    try:
        return strict_json.parse(path.read_bytes())
    except OSError as error:
        raise AncestorError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AncestorError(f"{path}: {error}.") from error


def as_layout(path: Path, content: object, model: type[ModelT]) -> ModelT:
    """Check the content of a file against its layout.

    Raises:
        AncestorError: one text with every missing key and wrong value, by field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        told = [f"{_field(problem['loc'])}: {_reason(problem)}" for problem in problems[:_SHOWN]]
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise AncestorError(f"{path}: {'; '.join(told)}{more}.") from error


def count_of(rate: float, n: int, where: str) -> int:
    """Number of hits behind a rate of n completions.

    Raises:
        AncestorError: no whole number of hits gives that rate, so n is not the number it was computed from.
    """
    hits = round(rate * n)
    # Rates may be written with four decimals.
    if abs(rate * n - hits) > min(0.25, max(1e-6, 1e-4 * n)):
        raise AncestorError(f"{where}: the rate {rate:g} is no number of hits in {n} completions.")
    return hits


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def _reason(problem: Any) -> str:
    if problem["type"] == "missing":
        return "this key is missing"
    given = problem.get("input")
    shown = f" (found {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{problem['msg'].removeprefix('Value error, ')}{shown}"
