"""What the shell offers when Tab is pressed."""

from __future__ import annotations

import os
from pathlib import Path

from persona_assets.catalog import PROFILE_FILE, profile_names
from persona_assets.cli.deployment import REPOSITORY


def studies_directory() -> Path:
    """Return the directory that studies are read from."""
    return Path(os.environ.get("PERSONA_STUDIES") or REPOSITORY / "studies")


def profiles(incomplete: str) -> list[str]:
    """Profiles whose name begins so. Names of files alone: a file that cannot be read must not stop the shell."""
    return [name for name in profile_names(studies_directory()) if name.startswith(incomplete)]


def study_names(incomplete: str) -> list[str]:
    """Studies of any profile whose name begins so."""
    found = {file.stem for file in studies_directory().glob("*/*.yaml") if file.name != PROFILE_FILE}
    return sorted(name for name in found if name.startswith(incomplete))
