"""Downloaded weights lie in the lake, unless the user has a place of his own for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona_assets.errors import ConfigurationError
from persona_assets.models import loading
from persona_assets.models.checkpoints import BaseSnapshot
from persona_assets.study import HubBase
from persona_assets.tasks import base_model
from persona_assets.tasks.base_model import base_checkpoint, hub_cache

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "PERSONA_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


def test_it_lies_in_the_lakes_root_also_while_the_product_is_staged(tmp_path: Path) -> None:
    assert hub_cache(tmp_path / "qwen" / "base_model") == tmp_path / "hub_cache"
    assert hub_cache(tmp_path / "qwen" / ".staging-host-1-abc-base_model") == tmp_path / "hub_cache"


def test_the_users_own_settings_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    assert hub_cache(tmp_path / "qwen" / "base_model") is None  # the Hub client's own place, which HF_HOME says
    monkeypatch.setenv("PERSONA_HUB_CACHE", "/scratch/models")
    assert hub_cache(tmp_path / "qwen" / "base_model") == Path("/scratch/models")


def test_it_is_where_the_base_model_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path | None] = []

    def resolve(repo_id: str, revision: str, cache_dir: Path | None = None) -> BaseSnapshot:
        asked.append(cache_dir)
        return BaseSnapshot(tmp_path / "snapshot", revision)

    monkeypatch.setattr(loading, "resolve_hub_base", resolve)
    directory = tmp_path / "qwen" / "base_model"
    directory.mkdir(parents=True)
    (directory / "reference.json").write_text(json.dumps({"repo_id": "owner/name", "commit": COMMIT}), encoding="utf-8")
    assert base_checkpoint(directory) == tmp_path / "snapshot"
    assert asked == [tmp_path / "hub_cache"]


def test_sizes_that_the_checkpoint_does_not_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 28, "hidden_size": 3584}), encoding="utf-8")
    base_model._check_sizes(tmp_path, HubBase(repo_id="owner/name", layers=28, hidden_size=3584))
    with pytest.raises(ConfigurationError, match=r"base_model\.hidden_size: the profile says 4096, owner/name has 3584"):
        base_model._check_sizes(tmp_path, HubBase(repo_id="owner/name", layers=28, hidden_size=4096))
