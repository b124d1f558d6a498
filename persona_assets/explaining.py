"""Say an error in words: what happened and what to do about it, without a stack trace."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from persona_assets.errors import PersonaAssetsError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_AGAIN = "then run what failed again: what was recorded stays."


def explain(error: BaseException, place: Path | None = None) -> str:
    """Return what a user should read.

    Args:
        error: what was raised; the errors that caused it are looked at as well.
        place: directory that was being written, where the error does not name a file itself.

    Returns:
        Advice for a full disk, a directory that may not be written, or memory that ran out; the text of an error that was
        written for users; otherwise the error's kind and text.
    """
    for_users = isinstance(error, PersonaAssetsError)
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in _FULL:
            return f"The disk is full{_where(each, place)}. Free some space, or set PERSONA_LAKE to a larger disk, {_AGAIN}"
        if isinstance(each, OSError) and each.errno in _REFUSED and not for_users:  # it may be reading that was refused
            return f"No permission to write{_where(each, place)}. Give this user the right to, {_AGAIN}"
        if type(each).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
            return (
                f"The GPU has too little memory: {each} Lower runtime.generation_batch_size (sampling) or "
                f"runtime.micro_batch_size (training) in the profile, {_AGAIN}"
            )
        if isinstance(each, MemoryError):
            return f"The machine has too little memory. Lower runtime.workers in the profile, {_AGAIN}"
    return str(error) if for_users else f"{type(error).__name__}: {error}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__


def _where(error: OSError, place: Path | None) -> str:
    named = Path(str(error.filename)) if error.filename else place
    if named is None:
        return ""
    there = next((parent for parent in (named, *named.parents) if parent.exists()), None)
    free = "" if there is None else f" ({shutil.disk_usage(there).free / 1e6:,.0f} MB free)"
    return f": {named}{free}"
