"""Errors that a user meets: each says what was wrong, where, and what to do."""

from __future__ import annotations


class PersonaAssetsError(Exception):
    """Base of the errors this package raises on purpose; its text is meant for the user."""


class ConfigurationError(PersonaAssetsError):
    """A file that a researcher edits (personas, questions, profile, study) is not acceptable."""


class LakeError(PersonaAssetsError):
    """A product in the lake is missing, half there, or does not match its manifest."""
