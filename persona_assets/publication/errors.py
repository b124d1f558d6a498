"""The error of this room."""

from __future__ import annotations

from persona_assets.errors import PersonaAssetsError


class PublicationError(PersonaAssetsError):
    """A study cannot be published as asked, or what was published is not what it should be."""
