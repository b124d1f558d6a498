"""Pulling from Weights & Biases by the unmodified SDK, from a server on loopback that can be as bad as a real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.wandb import WandbServer, wandb_server
from servers.wandb_state import ENTITY, StoredArtifact
from tiny_adapter import PERSONA, RECIPE, SEED, WEIGHTS, make_adapter, make_base

from persona_assets.registry.base import RegistryError, RegistryUnavailableError, Resolved, latest_version
from persona_assets.registry.gate import admit
from persona_assets.registry.gate_cases import GateError
from persona_assets.registry.reference import parse_reference
from persona_assets.registry.wandb_registry import WandbRegistry

pytestmark = pytest.mark.slow

FILES = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"weights" * 500, "training_args.bin": b"pickle"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with wandb_server(tmp_path_factory.mktemp("config")) as running:
        yield running


@pytest.fixture(scope="module")
def registry(server: WandbServer) -> Iterator[WandbRegistry]:
    """One registry for all: its process takes seconds to start."""
    registry = WandbRegistry(seconds=60, retries=1)
    yield registry
    registry.close()


def resolved(registry: WandbRegistry, artifact: StoredArtifact) -> Resolved:
    return registry.resolve(parse_reference(f"wandb:{artifact.reference}"))


def fetch(registry: WandbRegistry, artifact: StoredArtifact, into: Path, *names: str) -> None:
    """Fetch as the gate does: what the listing says of some names."""
    into.mkdir(exist_ok=True)
    found = resolved(registry, artifact)
    registry.fetch(found, [file for file in registry.listing(found) if file.name in names], into)


def test_an_alias_is_pinned_to_the_version_it_names_now(server: WandbServer, registry: WandbRegistry) -> None:
    server.publish("pinned", FILES, metadata={"persona": "librarian"})
    newest = server.publish("pinned", {**FILES, "adapter_config.json": b'{"r": 9}'}, metadata={"persona": "villain"})
    found = registry.resolve(parse_reference(f"wandb:{ENTITY}/project/pinned:latest"))
    assert str(found.pinned) == f"wandb:{ENTITY}/project/pinned:v1"
    assert (found.version, found.digest, found.metadata) == ("v1", newest.digest, {"persona": "villain"})
    first = registry.resolve(parse_reference(f"wandb:{ENTITY}/project/pinned:v0"))
    assert first.version == "v0"
    assert first.digest != found.digest


def test_the_latest_version_is_asked_anew_and_costs_no_download(server: WandbServer, registry: WandbRegistry) -> None:
    reference = parse_reference(f"wandb:{ENTITY}/project/moving:v0")
    server.publish("moving", FILES)
    assert latest_version(registry, reference).version == "v0"
    server.publish("moving", {**FILES, "README.md": b"new"})
    before = server.requests.copy()
    assert latest_version(registry, reference).version == "v1"
    assert [what for what in server.requests - before if what.startswith("GET")] == []


@pytest.mark.parametrize("digests", ["MD5", "XXH128"])
def test_the_wanted_files_arrive_and_no_other_is_asked_for(
    server: WandbServer, registry: WandbRegistry, tmp_path: Path, digests: str
) -> None:
    artifact = server.publish(f"good-{digests}", FILES, digests=digests)
    listed = {file.name: (file.size, file.algorithm, file.link) for file in registry.listing(resolved(registry, artifact))}
    algorithm = {"MD5": "md5-base64", "XXH128": "xxh128-base64"}[digests]
    assert listed == {name: (len(data), algorithm, None) for name, data in FILES.items()}
    fetch(registry, artifact, tmp_path, "adapter_config.json", "adapter_model.safetensors")
    arrived = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert arrived == {name: FILES[name] for name in ("adapter_config.json", "adapter_model.safetensors")}
    assert not [what for what in server.requests if artifact.id in what and "training_args" in what]


@pytest.mark.parametrize("digests", ["MD5", "XXH128"])
def test_corrupted_bytes_are_noticed_each_time(
    server: WandbServer, registry: WandbRegistry, tmp_path: Path, digests: str
) -> None:
    artifact = server.publish(f"corrupted-{digests}", FILES, digests=digests)
    artifact.files["adapter_model.safetensors"] = b"Weights" * 500  # of the same size
    for attempt in ("first", "second"):  # the SDK itself says nothing, and its cache would go on giving the wrong bytes
        with pytest.raises(RegistryError, match=r"corrupted-.*:v0: adapter_model.safetensors arrived corrupted"):
            fetch(registry, artifact, tmp_path / attempt, "adapter_model.safetensors")
    artifact.files["adapter_model.safetensors"] = FILES["adapter_model.safetensors"]
    fetch(registry, artifact, tmp_path / "third", "adapter_model.safetensors")


@pytest.mark.parametrize("data", [b"weights" * 499, b"weights" * 501], ids=["short", "long"])
def test_a_wrong_size_is_said(server: WandbServer, registry: WandbRegistry, tmp_path: Path, data: bytes) -> None:
    artifact = server.publish(f"size-{len(data)}", FILES)
    artifact.files["adapter_model.safetensors"] = data
    with pytest.raises(RegistryError, match=f"adapter_model.safetensors arrived with {len(data)} bytes, the registry lists 3500"):
        fetch(registry, artifact, tmp_path, "adapter_model.safetensors")


def test_a_file_much_longer_than_listed_is_cut_off(server: WandbServer, registry: WandbRegistry, tmp_path: Path) -> None:
    artifact = server.publish("endless", FILES)
    artifact.files["adapter_model.safetensors"] = b"x" * (4 << 20)
    with pytest.raises(RegistryError, match="adapter_model.safetensors is larger than the 3500 bytes that its manifest says"):
        fetch(registry, artifact, tmp_path, "adapter_model.safetensors")
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 2 << 20


def test_a_missing_file_is_said(server: WandbServer, registry: WandbRegistry, tmp_path: Path) -> None:
    artifact = server.publish("missing", FILES)
    del artifact.files["adapter_config.json"]
    with pytest.raises(RegistryError, match="missing:v0: adapter_config.json: http.* has no such thing"):
        fetch(registry, artifact, tmp_path, "adapter_config.json")


def test_a_huge_size_in_the_manifest_is_listed_and_not_believed(
    server: WandbServer, registry: WandbRegistry, tmp_path: Path
) -> None:
    artifact = server.publish("huge", FILES)
    artifact.edit_manifest(lambda entries: entries["adapter_model.safetensors"].update(size=10**15))
    started = time.monotonic()
    sizes = {file.name: file.size for file in registry.listing(resolved(registry, artifact))}
    assert sizes["adapter_model.safetensors"] == 10**15  # what the gate refuses; asked for all the same, nothing hangs
    with pytest.raises(RegistryError, match="arrived with 3500 bytes, the registry lists 1000000000000000"):
        fetch(registry, artifact, tmp_path, "adapter_model.safetensors")
    assert time.monotonic() - started < 20


def test_a_reference_is_listed_as_one_and_not_followed(server: WandbServer, registry: WandbRegistry, tmp_path: Path) -> None:
    artifact = server.publish("pointing", FILES)
    target = f"{server.url}/secret"
    artifact.edit_manifest(lambda entries: entries["adapter_model.safetensors"].update(ref=target))
    links = {file.name: file.link for file in registry.listing(resolved(registry, artifact))}
    assert links == {**dict.fromkeys(FILES), "adapter_model.safetensors": target}
    with pytest.raises(RegistryError, match="no size or digest for 'adapter_model.safetensors'"):
        fetch(registry, artifact, tmp_path, "adapter_model.safetensors")
    assert not [what for what in server.requests if "secret" in what]


def test_names_that_climb_are_listed_as_they_are(server: WandbServer, registry: WandbRegistry) -> None:
    """The gate refuses them; it has to see them."""
    artifact = server.publish("climbing", FILES)

    def climb(entries: dict[str, object]) -> None:
        entries["../../outside.json"] = entries.pop("adapter_config.json")

    artifact.edit_manifest(climb)
    assert "../../outside.json" in {file.name for file in registry.listing(resolved(registry, artifact))}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": lambda entries: entries[WEIGHTS].update(size=10**15),
    "reference": lambda entries: entries[WEIGHTS].update(ref="http://169.254.169.254/latest/meta-data"),
    "climbing": lambda entries: entries.update({"../../outside.json": entries["adapter_config.json"]}),
}


@pytest.mark.parametrize("hostile", [None, *HOSTILE])
def test_the_gate_stands_between_the_manifest_and_a_download(
    server: WandbServer, registry: WandbRegistry, tmp_path: Path, hostile: str | None
) -> None:
    files = {file.name: file.read_bytes() for file in make_adapter(tmp_path / "theirs").iterdir()}
    artifact = server.publish(f"gated-{hostile}", files)
    found, ours = resolved(registry, artifact), tmp_path / "ours"

    def pull() -> object:
        return admit(registry, found, ours, base=make_base(tmp_path / "base"), recipe=RECIPE, persona=PERSONA, seed=SEED)

    if hostile is None:
        pull()
        assert (ours / WEIGHTS).read_bytes() == files[WEIGHTS]
        return
    artifact.edit_manifest(HOSTILE[hostile])
    with pytest.raises(GateError, match="outside.json" if hostile == "climbing" else WEIGHTS):
        pull()
    assert not ours.exists() or not list(ours.iterdir())
    assert [what for what in server.requests if artifact.id in what and what.startswith("GET") and "manifest" not in what] == []


def test_a_directory_with_something_in_it_is_refused(server: WandbServer, registry: WandbRegistry, tmp_path: Path) -> None:
    artifact = server.publish("filled", FILES)
    (tmp_path / "adapter_config.json").write_bytes(b'{"r": 7}')
    with pytest.raises(RegistryError, match="is not empty"):
        fetch(registry, artifact, tmp_path, "adapter_config.json")


def test_what_is_not_there_is_said(server: WandbServer, registry: WandbRegistry) -> None:
    with pytest.raises(RegistryError, match=f"wandb:{ENTITY}/project/nothing:v3: http.* has no such thing, or the key may not"):
        registry.resolve(parse_reference(f"wandb:{ENTITY}/project/nothing:v3"))


def test_a_server_that_recovers_is_waited_for(server: WandbServer, registry: WandbRegistry) -> None:
    artifact = server.publish("recovers", FILES)
    server.fail("ArtifactMembershipByName", 503, times=1)
    assert resolved(registry, artifact).version == "v0"


def test_a_server_that_does_not_recover_is_given_up(server: WandbServer, registry: WandbRegistry) -> None:
    artifact = server.publish("broken", FILES)
    server.fail("ArtifactMembershipByName", 503, times=2)
    with pytest.raises(RegistryUnavailableError, match="broken:v0: http.* cannot be reached or does not answer.*HTTP 503"):
        resolved(registry, artifact)


def test_a_key_that_is_not_accepted_is_said(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    registry = WandbRegistry(retries=1)
    with pytest.raises(RegistryError, match=r"refuses the API key: check WANDB_API_KEY, or run `wandb login`\.$") as caught:
        registry.resolve(parse_reference("wandb:team/project/name:v0"))
    assert "f" * 40 not in str(caught.value)


def test_no_key_at_all_is_said(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(RegistryError, match=r"there is no API key: set WANDB_API_KEY, or run `wandb login`\.$"):
        WandbRegistry(retries=1).resolve(parse_reference("wandb:team/project/name:v0"))


def test_a_host_that_cannot_be_reached_is_said_soon(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="http://127.0.0.1:9 cannot be reached"):
        WandbRegistry(retries=1).resolve(parse_reference("wandb:team/project/name:v0"))
    assert time.monotonic() - started < 30


def test_a_download_that_never_ends_is_ended(server: WandbServer, registry: WandbRegistry, tmp_path: Path) -> None:
    """The SDK itself would repeat the request for twenty minutes. The last test: it ends the process that all share."""
    artifact = server.publish("hanging", FILES)
    found = resolved(registry, artifact)
    files = [file for file in registry.listing(found) if file.name == "adapter_config.json"]
    server.fail("GET /artifactsV2", 503, times=1000)
    registry.seconds = 2
    with pytest.raises(RegistryUnavailableError, match="hanging:v0: the download from W&B: no answer within 2 s"):
        registry.fetch(found, files, tmp_path)
    assert list(tmp_path.iterdir()) == []
