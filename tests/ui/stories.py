"""Who plays in the stories: the personas that are appended to the panel, and where each stands at the beginning."""

BEEKEEPER = {"id": "beekeeper", "category": "occupational", "prompt": "You are a beekeeper with forty hives on a hill."}
SAILOR = {"id": "sailor", "category": "character", "prompt": "You are a sailor home from a long journey."}
GOOD, FAILED, UNTOUCHED = "librarian", "sailor", "beekeeper"
"""Personas of `larger`: measured already; failed; nothing was made for it yet."""
