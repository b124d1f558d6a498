"""The embedded base model: a real Qwen2 checkpoint, pre-trained here in half a minute on generated text."""

from __future__ import annotations

from persona_assets.models.nano.build import NanoReport, build_nano_model
from persona_assets.models.nano.corpus import nano_inputs

__all__ = ["NanoReport", "build_nano_model", "nano_inputs"]
