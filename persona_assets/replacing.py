"""Replacing a directory or file as a whole: what is written lies beside its place until it is renamed.

Its name says which process of which host writes it, so that what killed processes left can be told from work in progress.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import uuid
from pathlib import Path

from persona_assets.product_files import sync_directory

_STAGING = ".staging-"
_REPLACED = ".replaced-"


def temporary_sibling(target: Path, kind: str = _STAGING) -> Path:
    """Name what is written before it is renamed to `target`; `clear_leftovers` removes it if this process dies first."""
    return target.parent / f"{kind}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}"


def move_into_place(staging: Path, target: Path) -> None:
    """Rename a directory to `target`; one that is there is set aside before and removed after."""
    if target.exists():
        aside = temporary_sibling(target, _REPLACED)
        target.rename(aside)
        staging.rename(target)
        shutil.rmtree(aside)
    else:
        staging.rename(target)
    sync_directory(target.parent)


def clear_leftovers(root: Path) -> list[Path]:
    """Clear what killed processes of this host left: what they were writing goes, what they had set aside comes back.

    Returns:
        The directories and files that were removed or restored.
    """
    handled = []
    kinds, host = "|".join(map(re.escape, (_STAGING, _REPLACED))), re.escape(socket.gethostname())
    # The whole name, since the name of one host can begin like that of another.
    ours = re.compile(rf"({kinds}){host}-(\d+)-[0-9a-f]{{8}}-(.+)")
    for leftover in sorted(root.rglob(".*-*")) if root.exists() else []:
        named = ours.fullmatch(leftover.name)
        if named is None or not leftover.exists() or process_alive(int(named[2])):
            continue
        target = leftover.parent / named[3]
        if named[1] == _REPLACED and not target.exists():
            leftover.rename(target)
        elif leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
        handled.append(leftover)
    return handled


def process_alive(pid: int) -> bool:
    """Say whether a process of this host runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
