"""Publishing to Weights & Biases by the unmodified SDK: uploads that are refused, interrupted, lost and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.wandb import WandbServer, wandb_server
from servers.wandb_state import ENTITY
from small_bundles import small_bundles

from persona_assets.publication.bundles import Bundle
from persona_assets.publication.errors import PublicationError
from persona_assets.publication.publishing import Published, publish
from persona_assets.publication.record import record, recorded_bundles
from persona_assets.publication.verification import verify
from persona_assets.publication.wandb_destination import WandbDestination
from persona_assets.registry.wandb_registry import WandbRegistry

pytestmark = pytest.mark.slow

TABLES = "embedded-n12-tables"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    # Offline is for the tracker; publishing never is.
    with wandb_server(tmp_path_factory.mktemp("config"), WANDB_MODE="offline") as running:
        yield running


@pytest.fixture(scope="module")
def registry(server: WandbServer) -> Iterator[WandbRegistry]:
    """One for all tests: the SDK takes seconds to start."""
    registry = WandbRegistry(seconds=60, retries=1)
    yield registry
    registry.close()


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project of its own for each test."""
    return request.node.name.removeprefix("test_")[:60]


@pytest.fixture
def destination(registry: WandbRegistry, project: str) -> WandbDestination:
    return WandbDestination(ENTITY, project, registry)


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    return small_bundles(tmp_path)


def faults(published: list[Published], registry: WandbRegistry) -> list[str]:
    return [fault for _, found in verify(recorded_bundles(record(published)), registry) for fault in found]


def test_what_was_pushed_comes_back_and_is_not_sent_again(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle], tmp_path: Path
) -> None:
    done = publish(bundles, destination, say=print)
    assert [(str(each.reference), each.sent) for each in done] == [
        (f"wandb:{ENTITY}/{project}/embedded-adapter-seed42-librarian:v0", True),
        (f"wandb:{ENTITY}/{project}/{TABLES}:v0", True),
    ]
    assert faults(done, destination.registry) == []
    (tables,) = server.versions(TABLES, project)
    assert json.loads(tables.metadata or "")["sha256"] == bundles[1].contents["sha256"]
    assert {each.type for each in server.artifacts.values() if each.collection[1] == project} == {"model", "dataset"}
    uploads = sum(count for what, count in server.requests.items() if what.startswith("PUT /put/file"))
    again = publish(bundles, destination, say=print)
    assert [(each.reference, each.sent) for each in again] == [(each.reference, False) for each in done]
    assert sum(count for what, count in server.requests.items() if what.startswith("PUT /put/file")) == uploads
    changed = publish(small_bundles(tmp_path / "changed", rate=0.75), destination, say=print)
    assert [(each.reference.version, each.sent) for each in changed] == [("v0", False), ("v1", True)]
    assert faults(done, destination.registry) == faults(changed, destination.registry) == []


def test_corrupted_bytes_at_the_registry_are_a_fault(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle]
) -> None:
    """Names, sizes, versions and the registry's own digests stay as they were."""
    done = publish(bundles, destination, say=print)
    (tables,) = server.versions(TABLES, project)
    data = tables.files["source_rates/cells.parquet"]
    tables.files["source_rates/cells.parquet"] = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    (fault,) = faults(done, destination.registry)
    assert fault.startswith(f"wandb:{ENTITY}/{project}/{TABLES}:v0: source_rates/cells.parquet arrived corrupted")


def test_a_registry_that_lies_about_the_digest_is_found_out(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle]
) -> None:
    """Another file, with a manifest that agrees with it: only the recorded sha256 tells."""
    done = publish(bundles, destination, say=print)
    (tables,) = server.versions(TABLES, project)
    other = server.publish("other", {"source_rates/cells.parquet": b"PAR1 other"}, project=project)
    tables.files["source_rates/cells.parquet"] = b"PAR1 other"
    entry = json.loads(other.manifest)["contents"]["source_rates/cells.parquet"]
    tables.edit_manifest(lambda entries: entries["source_rates/cells.parquet"].update(digest=entry["digest"], size=entry["size"]))
    found = faults(done, destination.registry)
    assert any("cells.parquet came back with sha256" in fault for fault in found), found


def test_an_answer_that_was_lost_does_not_make_a_second_version(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle]
) -> None:
    server.fail("CommitArtifact", None, times=2, after=True)  # carried out, and the connection breaks both times
    said: list[str] = []
    done = publish(bundles, destination, say=said.append, sleep=lambda _: None)
    assert "cannot be reached or does not answer" in said[0]
    assert [len(server.versions(name, project)) for name in ("embedded-adapter-seed42-librarian", TABLES)] == [1, 1]
    assert [each.sent for each in done] == [False, True]  # the first had arrived
    assert faults(done, destination.registry) == []


def test_uploads_that_break_off_or_are_rejected_are_repeated(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle]
) -> None:
    server.fail("PUT /put/file.*cells.parquet", 503, times=100)
    said: list[str] = []

    def recover(_: float) -> None:
        """At first it answers, and rejects the bytes; then it takes them."""
        server.faults.clear()
        if len(said) == 2:
            server.fail("PUT /put/file.*cells.parquet", 400, times=100)

    done = publish(bundles, destination, say=said.append, sleep=recover)
    assert [each.sent for each in done] == [True, True]
    assert f"{TABLES}: {server.url} cannot be reached or does not answer as it should" in said[1]
    assert f"{TABLES}: {server.url} cannot be reached or does not answer as it should" in said[2]
    assert server.versions(TABLES, project)[0].state == "COMMITTED"
    assert faults(done, destination.registry) == []


def test_an_upload_that_is_refused_ends_with_a_sentence_and_is_resumed_later(
    server: WandbServer, destination: WandbDestination, project: str, bundles: list[Bundle]
) -> None:
    server.fail("CreateArtifact$", 400, times=100)
    with pytest.raises(PublicationError) as caught:
        publish(bundles, destination, say=print, sleep=pytest.fail)
    assert str(caught.value).startswith(
        "0 of 2 bundles are published, embedded/adapter/seed42/librarian, embedded/n12/tables not:"
    )
    assert server.versions(TABLES, project) == []
    server.faults.clear()
    done = publish(bundles, destination, say=print)
    assert [each.sent for each in done] == [True, True]
    assert faults(done, destination.registry) == []
