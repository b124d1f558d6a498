"""The real Weights & Biases, when a key and a project to write to are given."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from persona_assets.publication.bundles import seal
from persona_assets.publication.destinations import open_destination
from persona_assets.publication.publishing import publish
from persona_assets.publication.record import record, recorded_bundles
from persona_assets.publication.verification import verify

PROJECT = "PERSONA_LIVE_WANDB"
MISSING = [name for name in ("PERSONA_LIVE_TESTS", PROJECT, "WANDB_API_KEY") if not os.environ.get(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"talks to the real service: set {', '.join(MISSING)} ({PROJECT}: ENTITY/PROJECT)"),
]


def test_a_bundle_travels_to_the_real_service_and_back(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text(f"# A test of persona-assets {uuid.uuid4()}\n", encoding="utf-8")
    bundle = seal("live/test/clean_result", "clean_result", {"report.md": report}, {"study": "test"}, tmp_path / "work")
    destination = open_destination(f"wandb:{os.environ[PROJECT]}")
    try:
        first = publish([bundle], destination, say=print)
        assert first[0].sent
        assert [fault for _, found in verify(recorded_bundles(record(first)), destination.registry) for fault in found] == []
        again = publish([bundle], destination, say=print)
        assert [(each.reference, each.sent) for each in again] == [(first[0].reference, False)]
    finally:
        destination.close()
