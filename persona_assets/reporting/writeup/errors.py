"""The error of this room."""

from __future__ import annotations

from persona_assets.errors import PersonaAssetsError


class WriteUpError(PersonaAssetsError):
    """A write-up cannot be made; the message says what is missing, where, and what to do."""
