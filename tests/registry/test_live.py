"""The real services, for whoever sets keys: `PERSONA_LIVE_TESTS=1` with the keys of the services to be tried."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from tiny_adapter import PERSONA, RECIPE, SEED, WEIGHTS, make_adapter, make_base

from persona_assets.registry.gate import admit
from persona_assets.registry.hub import HubRegistry
from persona_assets.registry.reference import parse_reference


def needs(key: str) -> pytest.MarkDecorator:
    """Skip unless live tests are asked for and there is a key; the reason says what to set."""
    missing = [name for name in ("PERSONA_LIVE_TESTS", key) if not os.environ.get(name)]
    return pytest.mark.skipif(bool(missing), reason=f"talks to the real service: set {' and '.join(missing)} to run it")


@needs("HF_TOKEN")
def test_an_adapter_goes_to_the_hub_and_comes_back(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "theirs")
    registry = HubRegistry()
    repo = f"{registry.api.whoami()['name']}/persona-assets-live-{uuid.uuid4().hex[:8]}"
    registry.api.create_repo(repo, private=True)
    try:
        done = registry.api.upload_folder(repo_id=repo, folder_path=adapter, path_in_repo=PERSONA, ignore_patterns=["*.bin"])
        resolved = registry.resolve(parse_reference(f"hf:{repo}@main:{PERSONA}"))
        assert resolved.version == done.oid
        base = make_base(tmp_path / "base")
        admit(registry, resolved, tmp_path / "ours", base=base, recipe=RECIPE, persona=PERSONA, seed=SEED)
        assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    finally:
        registry.api.delete_repo(repo)
