"""The error of this room."""

from __future__ import annotations

from persona_assets.errors import PersonaAssetsError


class FigureError(PersonaAssetsError):
    """A table cannot be drawn; the message says which, why, and what to do."""
