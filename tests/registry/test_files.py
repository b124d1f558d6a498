"""The registry that needs no account: directories, and what fsspec opens; what is there is said, and copied as listed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from tiny_adapter import CONFIG, PERSONA, RECIPE, SEED, WEIGHTS, make_adapter, make_base

from persona_assets.registry.base import RegistryError, RemoteFile, latest_version
from persona_assets.registry.files import FileRegistry
from persona_assets.registry.gate import admit
from persona_assets.registry.reference import AdapterReference, parse_reference

REMOTE = "memory://bucket/n12/librarian"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "theirs")


@pytest.fixture
def remote(adapter: Path) -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    for path in adapter.iterdir():
        system.pipe(f"/bucket/n12/librarian/{path.name}", path.read_bytes())
    yield system
    system.rm("/bucket", recursive=True)


def here(adapter: Path) -> AdapterReference:
    return AdapterReference("file", str(adapter))


@pytest.mark.parametrize("place", ["directory", "url"])
def test_an_adapter_is_admitted(adapter: Path, remote: object, tmp_path: Path, place: str) -> None:
    reference = here(adapter) if place == "directory" else parse_reference(f"file:{REMOTE}")
    registry = FileRegistry()
    resolved = registry.resolve(reference)
    assert resolved.pinned == reference
    assert [file.name for file in registry.listing(resolved)] == sorted(path.name for path in adapter.iterdir())
    base = make_base(tmp_path / "base")
    admit(registry, resolved, tmp_path / "ours", base=base, recipe=RECIPE, persona=PERSONA, seed=SEED)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()


def test_the_digest_is_that_of_the_content(adapter: Path, tmp_path: Path) -> None:
    registry = FileRegistry()
    first = registry.resolve(here(adapter))
    copied = registry.resolve(here(shutil.copytree(adapter, tmp_path / "copy")))
    (adapter / "README.md").write_text("another text")
    os.utime(adapter / WEIGHTS)
    assert first.digest == copied.digest == registry.resolve(here(adapter)).digest
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-1] + b"x")
    assert latest_version(registry, here(adapter)).digest != first.digest


def test_the_digest_of_a_remote_place_changes_with_it(remote: fsspec.AbstractFileSystem) -> None:
    registry = FileRegistry()
    reference = parse_reference(f"file:{REMOTE}")
    first = registry.resolve(reference).digest
    assert registry.resolve(reference).digest == first
    remote.pipe(f"/bucket/n12/librarian/{WEIGHTS}", b"retrained")
    assert registry.resolve(reference).digest != first


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:/nowhere/at/all", "the directory /nowhere/at/all does not exist"),
        ("file:memory://bucket/nobody", "there is nothing"),
        ("file:nosuch://bucket/x", "cannot be reached or failed.*nosuch"),
        ("file:http://127.0.0.1:9/x/", "127.0.0.1:9|a library is missing"),
    ],
)
def test_what_is_not_there_is_said(text: str, reason: str) -> None:
    with pytest.raises(RegistryError, match=f"^{text.rstrip('/')}: .*({reason})"):
        FileRegistry().resolve(parse_reference(text))


def test_a_file_in_place_of_a_directory(adapter: Path) -> None:
    with pytest.raises(RegistryError, match="is not a directory"):
        FileRegistry().resolve(here(adapter / WEIGHTS))


def test_links_and_pipes_are_listed_as_such_and_not_followed(adapter: Path, tmp_path: Path) -> None:
    (adapter / CONFIG).unlink()
    (adapter / CONFIG).symlink_to("/etc/passwd")
    (adapter / "sub").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(adapter / "pipe.pt")
    registry = FileRegistry()
    links = {file.name: file.link for file in registry.listing(registry.resolve(here(adapter))) if file.link}
    assert links == {CONFIG: "/etc/passwd", "sub": str(tmp_path), "pipe.pt": "a device, pipe or socket"}


def test_a_file_that_became_a_link_since_it_was_listed(adapter: Path, tmp_path: Path) -> None:
    registry = FileRegistry()
    resolved = registry.resolve(here(adapter))
    listed = [file for file in registry.listing(resolved) if file.name == CONFIG]
    (adapter / CONFIG).unlink()
    (adapter / CONFIG).symlink_to("/etc/passwd")
    with pytest.raises(RegistryError, match="adapter_config.json cannot be read"):
        registry.fetch(resolved, listed, tmp_path)


@pytest.mark.parametrize("place", ["directory", "url"])
@pytest.mark.parametrize("more", [-1, 1])
def test_another_size_than_listed_is_refused(adapter: Path, remote: object, tmp_path: Path, place: str, more: int) -> None:
    registry = FileRegistry()
    resolved = registry.resolve(here(adapter) if place == "directory" else parse_reference(f"file:{REMOTE}"))
    listed = next(file for file in registry.listing(resolved) if file.name == WEIGHTS)
    assert listed.size is not None
    (into := tmp_path / "into").mkdir()
    with pytest.raises(RegistryError, match=f"{WEIGHTS} arrived with .* bytes, the registry lists {listed.size + more}"):
        registry.fetch(resolved, [replace(listed, size=listed.size + more)], into)
    assert (into / WEIGHTS).stat().st_size <= listed.size  # never read further than that


def test_a_missing_file_is_said(adapter: Path, tmp_path: Path) -> None:
    registry = FileRegistry()
    with pytest.raises(RegistryError, match="gone.json cannot be read"):
        registry.fetch(registry.resolve(here(adapter)), [RemoteFile("gone.json", 3)], tmp_path)


def test_a_whole_disk_is_not_listed(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.pt").touch()
    with pytest.raises(RegistryError, match="more than 1000 files; name the directory of one adapter"):
        FileRegistry().resolve(here(tmp_path))
