"""Publishing to the Hugging Face Hub by the unmodified client: stale parents, failing uploads, wrong keys, corrupted bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import Answer, HubServer, Repo, hub_server
from small_bundles import small_bundles

from persona_assets.publication.bundles import Bundle
from persona_assets.publication.errors import PublicationError
from persona_assets.publication.hf_destination import HubDestination
from persona_assets.publication.publishing import Published, publish
from persona_assets.publication.record import record, recorded_bundles
from persona_assets.publication.verification import verify

pytestmark = pytest.mark.slow

REPO = "lab/markers"
TABLE = "embedded/n12/tables/source_rates/cells.parquet"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.keys = {"hf_right"}
        yield server


@pytest.fixture
def destination(hub: HubServer) -> Iterator[HubDestination]:
    destination = HubDestination(REPO, seconds=60)
    yield destination
    destination.close()


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    return small_bundles(tmp_path)


def faults(published: list[Published], destination: HubDestination) -> list[str]:
    return [fault for _, found in verify(recorded_bundles(record(published)), destination.registry) for fault in found]


def test_all_that_changed_is_one_commit_that_comes_back(
    hub: HubServer, destination: HubDestination, bundles: list[Bundle], tmp_path: Path
) -> None:
    done = publish(bundles, destination, say=print)
    first = hub.repos[REPO].head
    assert len(hub.repos[REPO].commits) == 2  # the empty one that a repository begins with, and this one
    assert hub.repos[REPO].private
    assert [(str(each.reference), each.sent) for each in done] == [
        (f"hf:{REPO}@{first}:embedded/adapter/seed42/librarian", True),
        (f"hf:{REPO}@{first}:embedded/n12/tables", True),
    ]
    assert faults(done, destination) == []
    again = publish(bundles, destination, say=print)
    assert [each.sent for each in again] == [False, False]
    assert hub.repos[REPO].head == first

    hub.repos[REPO].commit({"embedded/n12/tables/old.parquet": b"of an earlier version", "README.md": b"theirs"})
    changed = publish(small_bundles(tmp_path / "changed", rate=0.75), destination, say=print)
    assert [each.sent for each in changed] == [False, True]
    files = hub.repos[REPO].commits[hub.repos[REPO].head]
    assert "embedded/n12/tables/old.parquet" not in files
    assert files["README.md"] == b"theirs"
    assert faults(changed, destination) == faults(done, destination) == []


def test_a_commit_of_somebody_else_meanwhile_is_followed(
    hub: HubServer, destination: HubDestination, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO] = Repo()
    write = hub._write
    others = iter([{"theirs.md": b"first"}, {"theirs.md": b"second"}])

    def interrupted(name: str, repo: Repo, rest: str, body: bytes) -> Answer:
        """Somebody else commits between the moment the head was read and our commit."""
        if rest.startswith("/commit/") and (theirs := next(others, None)):
            repo.commit(theirs)
        return write(name, repo, rest, body)

    monkeypatch.setattr(hub, "_write", interrupted)
    said: list[str] = []
    done = publish(bundles, destination, say=said.append, sleep=lambda _: None)
    assert [line for line in said if "somebody else committed meanwhile (HTTP 412)" in line] == said[:2]
    files = hub.repos[REPO].commits[hub.repos[REPO].head]
    assert files["theirs.md"] == b"second"  # nothing of theirs was undone
    assert TABLE in files
    assert faults(done, destination) == []


def test_a_hub_that_fails_or_rejects_for_a_while_is_waited_for(
    hub: HubServer, destination: HubDestination, bundles: list[Bundle]
) -> None:
    hub.repos[REPO] = Repo()
    hub.fail_next = [500, 400]
    said: list[str] = []
    done = publish(bundles, destination, say=said.append, sleep=lambda _: None)
    assert any("the Hub refused what was sent" in line for line in said)
    assert [each.sent for each in done] == [True, True]
    assert len(hub.repos[REPO].commits) == 2
    assert faults(done, destination) == []


def test_a_commit_that_is_refused_ends_with_a_sentence(
    hub: HubServer, destination: HubDestination, bundles: list[Bundle]
) -> None:
    hub.repos[REPO] = Repo()
    # The files are uploaded, then the commit is refused.
    write = hub._write
    hub._write = lambda *asked: Answer(403, b"{}") if asked[2].startswith("/commit/") else write(*asked)  # type: ignore[method-assign]
    with pytest.raises(PublicationError, match=f"0 of 2 bundles are published, .* not: hf:{REPO}@main: the Hub refused"):
        publish(bundles, destination, say=print, sleep=pytest.fail)
    assert len(hub.repos[REPO].commits) == 1
    hub._write = write  # type: ignore[method-assign]
    uploads = sum(operation.startswith("PUT /lfs/") for operation in hub.operations)
    done = publish(bundles, destination, say=print)
    assert [each.sent for each in done] == [True, True]
    assert sum(operation.startswith("PUT /lfs/") for operation in hub.operations) == uploads  # large files are not sent again


def test_a_hub_that_cannot_be_reached_is_given_up(hub: HubServer, destination: HubDestination, bundles: list[Bundle]) -> None:
    hub.close()
    with pytest.raises(
        PublicationError, match=r"0 of 2 bundles are published, .* gave up after 2 attempts\. hf:lab/markers@main"
    ):
        publish(bundles, destination, say=print, waits=(0.0,), sleep=lambda _: None)


def test_a_key_that_is_not_accepted_is_said(hub: HubServer, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    destination = HubDestination(REPO, seconds=60)
    with pytest.raises(
        PublicationError, match="0 of 2 bundles are published, .*the Hub does not accept the key in HF_TOKEN"
    ) as caught:
        publish(bundles, destination, say=print, sleep=pytest.fail)
    assert "hf_wrong" not in str(caught.value)


def test_corrupted_or_exchanged_bytes_are_a_fault(
    hub: HubServer, destination: HubDestination, bundles: list[Bundle], tmp_path: Path
) -> None:
    done = publish(bundles, destination, say=print)
    hub.corrupt.add(TABLE)
    (fault,) = faults(done, destination)
    assert "source_rates/cells.parquet arrived corrupted" in fault
    hub.corrupt.clear()
    # Now the Hub's listing agrees with what it gives: only the recorded sha256 tells.
    other = small_bundles(tmp_path / "other", rate=0.75)[1].files["source_rates/cells.parquet"].read_bytes()
    hub.repos[REPO].commits[hub.repos[REPO].head][TABLE] = other
    (fault,) = faults(done, destination)
    assert "source_rates/cells.parquet came back with sha256" in fault
