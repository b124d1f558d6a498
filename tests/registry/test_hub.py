"""The unmodified Hub client against a server on loopback: pinned, verified, past the cache, and clear when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import HubServer, Repo, hub_server
from tiny_adapter import CONFIG, PERSONA, RECIPE, SEED, WEIGHTS, make_adapter, make_base

from persona_assets.registry.base import RegistryError, RegistryUnavailableError, latest_version
from persona_assets.registry.gate import admit
from persona_assets.registry.hub import HubRegistry
from persona_assets.registry.reference import parse_reference

REPO = "lab/markers"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "theirs")


@pytest.fixture
def hub(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server() as server:
        repo = server.repos[REPO] = Repo()
        repo.commit({f"n12/librarian/{path.name}": path.read_bytes() for path in adapter.iterdir()} | {"README.md": b"# markers"})
        yield server


@pytest.fixture
def registry(hub: HubServer) -> HubRegistry:
    return HubRegistry(hub.endpoint)


REFERENCE = parse_reference(f"hf:{REPO}@main:n12/librarian")


def test_an_adapter_is_pinned_fetched_and_admitted(hub: HubServer, registry: HubRegistry, adapter: Path, tmp_path: Path) -> None:
    resolved = registry.resolve(REFERENCE)
    assert (resolved.version, str(resolved.pinned)) == (hub.repos[REPO].head, f"hf:{REPO}@{hub.repos[REPO].head}:n12/librarian")
    base = make_base(tmp_path / "base")
    admit(registry, resolved, tmp_path / "ours", base=base, recipe=RECIPE, persona=PERSONA, seed=SEED)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert f"n12/librarian/{CONFIG}" in hub.fetched
    assert "n12/librarian/training_args.bin" not in hub.fetched
    assert all(path.startswith("n12/librarian/") for path in hub.fetched)


def test_a_pinned_commit_does_not_move_and_main_does(hub: HubServer, registry: HubRegistry) -> None:
    first = registry.resolve(REFERENCE)
    hub.repos[REPO].commit({"n12/villain/adapter_config.json": b"{}"})
    other_file = registry.resolve(REFERENCE)
    assert other_file.version != first.version
    assert other_file.digest == first.digest  # a commit that leaves this adapter alone makes no new adapter
    hub.repos[REPO].commit({f"n12/librarian/{WEIGHTS}": b"retrained"})
    assert registry.resolve(REFERENCE).digest != first.digest
    assert registry.resolve(first.pinned).digest == first.digest
    assert latest_version(registry, first.pinned).version == hub.repos[REPO].head
    assert hub.fetched == set()  # versions and digests cost no download


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_corrupted_bytes_of_the_right_size_are_refused(hub: HubServer, registry: HubRegistry, tmp_path: Path, name: str) -> None:
    hub.corrupt.add(f"n12/librarian/{name}")
    resolved = registry.resolve(REFERENCE)
    for attempt in range(2):  # nor do they come out of a cache later
        (into := tmp_path / str(attempt)).mkdir()
        with pytest.raises(RegistryError, match=f"n12/librarian/{name} arrived corrupted: its .* is .*, the Hub's is"):
            registry.fetch(resolved, registry.listing(resolved), into)
        assert list(into.iterdir()) == []
    hub.corrupt.clear()
    registry.fetch(resolved, registry.listing(resolved), into)
    assert (into / WEIGHTS).is_file()


def test_a_file_of_another_size_is_refused(hub: HubServer, registry: HubRegistry, tmp_path: Path) -> None:
    hub.shortened.add(f"n12/librarian/{WEIGHTS}")
    resolved = registry.resolve(REFERENCE)
    (into := tmp_path / "into").mkdir()
    with pytest.raises(RegistryError, match=f"{WEIGHTS}|size"):
        registry.fetch(resolved, registry.listing(resolved), into)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (f"hf:{REPO}@main:n12/nobody", "no such folder or file"),
        (f"hf:{REPO}@no-branch:n12/librarian", "no such revision"),
        (f"hf:{REPO}@{'f' * 40}:n12/librarian", "no such revision"),
        ("hf:lab/nothing@main", "no such repository, or it is private"),
    ],
)
def test_what_is_not_there_is_said(registry: HubRegistry, reference: str, reason: str) -> None:
    with pytest.raises(RegistryError, match=f"^hf:lab/.*: .*{reason}"):
        registry.resolve(parse_reference(reference))


def test_a_file_that_vanished_since_it_was_listed(hub: HubServer, registry: HubRegistry, tmp_path: Path) -> None:
    resolved = registry.resolve(REFERENCE)
    files = registry.listing(resolved)
    del hub.repos[REPO].commits[resolved.version][f"n12/librarian/{WEIGHTS}"]
    (into := tmp_path / "into").mkdir()
    with pytest.raises(RegistryError, match="no such folder or file"):
        registry.fetch(resolved, files, into)


def test_keys_come_from_the_environment_alone(hub: HubServer, registry: HubRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.keys = {"hf_good"}
    with pytest.raises(RegistryError, match="HF_TOKEN"):
        registry.resolve(REFERENCE)
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(RegistryError, match="does not accept the key in HF_TOKEN") as refused:
        registry.resolve(REFERENCE)
    assert "hf_bad" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert registry.resolve(REFERENCE).version == hub.repos[REPO].head


def test_an_unreachable_hub_is_said_at_once(hub: HubServer, registry: HubRegistry, tmp_path: Path) -> None:
    resolved = registry.resolve(REFERENCE)
    files = registry.listing(resolved)
    hub.close()
    (into := tmp_path / "into").mkdir()
    for ask in (lambda: registry.resolve(REFERENCE), lambda: registry.fetch(resolved, files, into)):
        with pytest.raises(RegistryUnavailableError, match="the Hub cannot be reached; look at the network and HF_ENDPOINT"):
            ask()


def test_the_server_takes_uploads_and_refuses_a_stale_parent(
    hub: HubServer, registry: HubRegistry, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setenv("HF_TOKEN", "hf_any")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    api = registry.api
    api.create_repo("lab/pushed", exist_ok=True)
    api.create_repo("lab/pushed", exist_ok=True)
    done = api.upload_folder(repo_id="lab/pushed", folder_path=adapter, path_in_repo="villain", ignore_patterns=["*.bin"])
    assert done.oid == hub.repos["lab/pushed"].head
    pushed = hub.repos["lab/pushed"].commits[done.oid]
    assert pushed == {f"villain/{path.name}": path.read_bytes() for path in adapter.iterdir() if path.suffix != ".bin"}
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="lab/pushed", parent_commit="0" * 40)
