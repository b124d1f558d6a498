"""References to adapters in registries, and patterns that name one for each persona.

A reference says where one adapter lies:

    wandb:ENTITY/PROJECT/NAME:VERSION       an artifact of Weights & Biases; v0 is pinned, latest is an alias that moves
    hf:ORG/REPO@REVISION:FOLDER             a folder of a repository on the Hugging Face Hub (without :FOLDER its root); a commit
                                            sha is pinned, a branch or tag moves
    file:PATH_OR_URL                        a directory, or the URL of one that fsspec opens (s3://..., gs://..., memory://...)

A pattern is a reference with `{persona}` and, for several training seeds, `{seed}` in it.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from persona_assets.errors import ConfigurationError

Scheme = Literal["wandb", "hf", "file"]
SCHEMES: tuple[Scheme, ...] = ("wandb", "hf", "file")

_FORMS = {
    "wandb": "wandb:ENTITY/PROJECT/NAME:VERSION",
    "hf": "hf:ORG/REPO@COMMIT:FOLDER",
    "file": "file:/ABSOLUTE/PATH or file:PROTOCOL://...",
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_WANDB = re.compile(rf"(?P<entity>{_NAME})/(?P<project>{_NAME})/(?P<name>{_NAME}):(?P<version>{_NAME})")
_HF = re.compile(rf"(?P<repo>{_NAME}/{_NAME})@(?P<revision>{_NAME}(?:/{_NAME})*)(?::(?P<folder>[^:]*))?")
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANDB_VERSION = re.compile(r"v[0-9]+")
_FIELDS = frozenset({"persona", "seed"})


class BadReferenceError(ConfigurationError):
    """A reference to an adapter that cannot be read."""


@dataclass(frozen=True)
class AdapterReference:
    """Where one adapter lies.

    Attributes:
        scheme: which kind of registry.
        location: `ENTITY/PROJECT/NAME`, `ORG/REPO`, or the path or URL.
        version: version or alias of an artifact, revision of a repository; empty for `file`, which keeps no versions.
        folder: directory inside a repository, with forward slashes; empty for its root and for other registries.
    """

    scheme: Scheme
    location: str
    version: str = ""
    folder: str = ""

    def __str__(self) -> str:
        """Return the text that `parse_reference` reads."""
        if self.scheme == "wandb":
            return f"wandb:{self.location}:{self.version}"
        if self.scheme == "hf":
            return f"hf:{self.location}@{self.version}" + (f":{self.folder}" if self.folder else "")
        return f"file:{self.location}"

    @property
    def pinned(self) -> bool:
        """Whether it names the same bytes for ever; a directory never does."""
        if self.scheme == "file":
            return False
        return bool((_WANDB_VERSION if self.scheme == "wandb" else _COMMIT).fullmatch(self.version))

    def at(self, version: str) -> AdapterReference:
        """Return the reference to another version of the same thing."""
        return replace(self, version=version)

    @property
    def newest(self) -> AdapterReference:
        """The reference that moves with the registry: alias `latest`, branch `main`, or the directory itself."""
        return {"wandb": self.at("latest"), "hf": self.at("main"), "file": self}[self.scheme]


def parse_reference(text: str) -> AdapterReference:
    """Read a reference.

    Raises:
        BadReferenceError: it is not one; the message says what was expected.
    """
    _check_characters(text)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in SCHEMES:
        raise BadReferenceError(f"{text!r}: a reference begins with wandb:, hf: or file: ({'; '.join(_FORMS.values())}).")
    if scheme == "file":
        return _file_reference(text, rest)
    found = (_WANDB if scheme == "wandb" else _HF).fullmatch(rest)
    if found is None:
        raise BadReferenceError(f"{text!r}: expected {_FORMS[scheme]}{_hint(scheme, rest)}.")
    if scheme == "wandb":
        location = "/".join(found[name] for name in ("entity", "project", "name"))
        return AdapterReference("wandb", location, found["version"])
    folder = (found["folder"] or "").strip("/")
    if any(part in ("", ".", "..") for part in folder.split("/")) and folder:
        raise BadReferenceError(f"{text!r}: the folder {folder!r} is not a plain path inside the repository.")
    return AdapterReference("hf", found["repo"], found["revision"], folder)


@dataclass(frozen=True)
class ReferencePattern:
    """A reference in which `{persona}` and `{seed}` stand for what differs."""

    text: str

    @property
    def fields(self) -> frozenset[str]:
        """Which of `persona` and `seed` stand in it."""
        return frozenset(field for _, field, _, _ in string.Formatter().parse(self.text) if field is not None)

    def reference(self, persona: str, seed: int) -> AdapterReference:
        """Return the reference of one persona's adapter under one training seed."""
        return parse_reference(self.text.format(persona=persona, seed=seed))


def parse_pattern(text: str) -> ReferencePattern:
    """Read a pattern; a reference without any field is one as well.

    Raises:
        BadReferenceError: braces that are not `{persona}` or `{seed}`, or what comes out is no reference.
    """
    _check_characters(text)
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadReferenceError(f"{text!r}: {error}; write {{persona}} or {{seed}}.") from error
    for _, field, spec, conversion in parts:
        if field is not None and (field not in _FIELDS or spec or conversion):
            raise BadReferenceError(f"{text!r}: {{{field}}} means nothing here; a pattern may hold {{persona}} and {{seed}}.")
    tried = text.format(persona="persona", seed=42)
    try:
        parse_reference(tried)
    except BadReferenceError as error:
        raise BadReferenceError(str(error).replace(repr(tried), repr(text))) from None
    return ReferencePattern(text)


def _check_characters(text: str) -> None:
    if text != text.strip() or not text:
        raise BadReferenceError(f"{text!r}: a reference is empty, or begins or ends with white space.")
    if not text.isprintable():
        raise BadReferenceError(f"{text!r}: a reference holds a control character.")


def _file_reference(text: str, rest: str) -> AdapterReference:
    if "::" in rest:
        raise BadReferenceError(f"{text!r}: chained URLs are not opened; name the place itself.")
    url = _URL.fullmatch(rest)
    if url is not None and url["protocol"] != "file":
        path = url["rest"]
    else:
        rest = path = url["rest"] if url is not None else rest
        if not path.startswith(("/", "~/")):
            raise BadReferenceError(f"{text!r}: expected {_FORMS['file']}; a relative path would depend on where one stands.")
        rest = f"/{rest.strip('/')}" if rest.startswith("/") else rest
    if ".." in path.split("/"):
        raise BadReferenceError(f"{text!r}: '..' is not followed; name the directory itself.")
    return AdapterReference("file", rest.rstrip("/"))


def local_path(reference: AdapterReference) -> Path | None:
    """Return the directory of a `file` reference; None when it is a URL."""
    return None if _URL.fullmatch(reference.location) else Path(reference.location).expanduser()


def _hint(scheme: str, rest: str) -> str:
    if scheme == "wandb" and ":" not in rest:
        return "; the version is missing: add :v0, or :latest to follow the newest one"
    if scheme == "hf" and "@" not in rest:
        return "; the revision is missing: add @ and a commit sha, or @main to follow a branch"
    return ""
