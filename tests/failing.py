"""Runs that fail as they do on a user's machine, and with which words the UI shows it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from dagster import AssetKey, DagsterEventType
from deployments import PROFILE, Opened, Site
from servers.hub import Repo, hub_server


@dataclass(frozen=True)
class Failed:
    """A run that failed, and the text with which the UI shows its failed step."""

    run_id: str
    said: str


def fail(opened: Opened, asset: str, config: Mapping[str, Any] | None = None, partition: str | None = None) -> Failed:
    """Run one asset, which must fail."""
    job = opened.deployment.definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={AssetKey([PROFILE, *asset.split("/")])})
    result = subset.execute_in_process(
        instance=opened.instance,
        partition_key=partition,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
        raise_on_error=False,
    )
    [failed] = [event for event in result.all_node_events if event.event_type == DagsterEventType.STEP_FAILURE]
    said = failed.step_failure_data.user_failure_data
    assert said is not None and said.description, "the UI would show nothing but a stack trace"
    return Failed(result.run_id, str(said.description))


def with_runtime(**fields: object) -> dict[str, Any]:
    """Config of the launchpad for the model runtime."""
    return {"resources": {"model_runtime": {"config": fields}}}


@contextmanager
def full_disk() -> Iterator[None]:
    """Let nothing reach the disk."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


@contextmanager
def edited(site: Site, file: str, **fields: object) -> Iterator[None]:
    """Set fields of a YAML file under studies/ for a while."""
    path = site.studies / file
    before = path.read_text(encoding="utf-8")
    site.edit(file, lambda content: content.update(fields))
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


@contextmanager
def refusing_hub(*, there: bool = True, keys: set[str] | None = None) -> Iterator[None]:
    """Serve a Hub with `lab/markers` on it, or without; it takes only these keys, of which the user's is none."""
    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        hub.keys, hub.repos = keys, {"lab/markers": Repo()} if there else {}
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)  # read from there once, when it was imported
        patch.setenv("HF_TOKEN", "hf_of_the_user")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


def absent_model(repository: str) -> dict[str, Any]:
    """A base model on the Hub, pinned, that is not there."""
    return {"kind": "hub", "repo_id": repository, "revision": "0" * 40, "layers": 4}
