"""A run over a range of personas works on those that are not done, and on no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from dagster import AssetKey
from deployments import PROFILE, SMALL, Site

from persona_assets.assets import adapters
from persona_assets.progress import ProgressEvent, listen

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the personas whose adapters are trained, in order."""
    names: list[str] = []
    train = adapters.bring_adapter

    def note(task: adapters.AdapterTask) -> Mapping[str, object]:
        names.append(task.out_dir.name.rpartition("persona=")[2])
        return train(task)

    monkeypatch.setattr(adapters, "bring_adapter", note)
    return names


def test_a_range_works_on_what_is_missing(base_site: Site, tmp_path: Path, trained: list[str]) -> None:
    site = base_site.copy(tmp_path / "site")
    heard: list[ProgressEvent] = []
    with site.opened() as opened:
        opened.run("small", "personas", "training_answers", "training_dataset")
        opened.run("small", "personas", "adapter", personas=SMALL[1:3])
        assert trained == list(SMALL[1:3])
        assert opened.instance.get_materialized_partitions(AssetKey([PROFILE, "adapter"])) == set(SMALL[1:3])
        before = site.manifests(f"{PROFILE}/adapter/")

        trained.clear()
        stop = listen(heard.append)
        opened.run("small", "personas", "adapter")
        stop()
        missing = [persona for persona in SMALL if persona not in SMALL[1:3]]
        assert trained == missing
        now = site.manifests(f"{PROFILE}/adapter/")
        assert {path: now[path] for path in before} == before
        assert len(now) == len(SMALL)
        notes = {event.key: event.note for event in heard if event.stage == "adapter" and event.key}
        assert notes == {persona: "unchanged, skipped" if persona in SMALL[1:3] else "" for persona in SMALL}
        assert heard[-1].done == heard[-1].total == len(SMALL)

        trained.clear()
        opened.run("small", "personas", "adapter")
        assert trained == []
        assert site.manifests(f"{PROFILE}/adapter/") == now
