"""The registry that needs no account: a directory, or a URL that fsspec opens."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.registry.base import RegistryError, RegistryUnavailableError, RemoteFile, Resolved, check_fetched
from persona_assets.registry.reference import AdapterReference, local_path

_MOST_FILES = 1000
_LARGEST_DIGESTED = 1 << 34  # bytes; no adapter is as large
_CHUNK_BYTES = 1 << 20
# What the file systems of fsspec call a value that changes with the content of a file, the surest first.
_CONTENT_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "LastModified", "last_modified", "mtime", "created")


class FileRegistry:
    """Adapters in directories: one directory, one adapter. It keeps no versions, so the content's digest takes their place."""

    def resolve(self, reference: AdapterReference) -> Resolved:
        """Digest what lies there: the bytes of a directory's two files, or what the remote store says of them."""
        there = {file.name for file in self._list(reference)}
        names = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name in there]  # that one is missing is the gate's to say
        directory = local_path(reference)
        if directory is None:
            digest = sha256_json({name: self._remote_state(reference, name) for name in names})
        else:
            digest = sha256_json({name: _local_state(directory / name) for name in names})
        return Resolved(reference, reference, digest[:12], digest)

    def listing(self, resolved: Resolved) -> Sequence[RemoteFile]:
        """List every file under the directory, links as such."""
        return self._list(resolved.reference)

    def fetch(self, resolved: Resolved, files: Sequence[RemoteFile], into: Path) -> None:
        """Copy files; each is read to its listed size and no further."""
        directory = local_path(resolved.reference)
        for file in files:
            target = into / file.name
            if directory is not None:
                _copy_local(directory / file.name, target, file, str(resolved.reference))
            else:
                with _told(resolved.reference):
                    system, root = _opened(resolved.reference)
                    with system.open(f"{root}/{file.name}", "rb") as source, target.open("xb") as written:
                        _copy(source, written, file.size)
            check_fetched(target, file, str(resolved.reference))

    def _list(self, reference: AdapterReference) -> list[RemoteFile]:
        directory = local_path(reference)
        if directory is not None:
            return _list_local(directory, reference)
        with _told(reference):
            system, root = _opened(reference)
            found = system.find(root, detail=True)
        if not found:
            raise RegistryError(f"{reference}: there is nothing; correct the reference.")
        _check_count(len(found), reference)
        return [_remote_file(path, root, info) for path, info in sorted(found.items())]

    @staticmethod
    def _remote_state(reference: AdapterReference, name: str) -> list[object]:
        with _told(reference):
            system, root = _opened(reference)
            info = system.info(f"{root}/{name}")
        said = next((str(info[key]) for key in _CONTENT_KEYS if info.get(key)), None)
        if said is None:
            raise RegistryError(f"{reference}: the store says nothing by which a changed {name} could be told from an old one.")
        return [info.get("size"), said]


def anything_there(reference: AdapterReference) -> bool:
    """Say whether a place that fsspec opens exists.

    Raises:
        RegistryError: in one sentence: its store cannot be reached, or does not allow it.
    """
    with _told(reference):
        system, root = _opened(reference)
        return bool(system.exists(root))


def _local_state(path: Path) -> list[object]:
    status = path.lstat()
    # A link, or something without an end, is the gate's to refuse: it is not followed here.
    plain = stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_DIGESTED
    return [status.st_size, sha256_file(path) if plain else status.st_mtime_ns]


def _list_local(directory: Path, reference: AdapterReference) -> list[RemoteFile]:
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise RegistryError(f"{reference}: the directory {directory} {what}.")
    found: list[RemoteFile] = []
    waiting = [directory]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except OSError as error:
            raise RegistryError(f"{reference}: cannot be read: {error}.") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
                continue
            link = os.readlink(entry.path) if entry.is_symlink() else None
            status = entry.stat(follow_symlinks=False)
            if link is None and not stat.S_ISREG(status.st_mode):
                link = "a device, pipe or socket"
            found.append(RemoteFile(Path(entry.path).relative_to(directory).as_posix(), status.st_size, link=link))
            _check_count(len(found), reference)
    return sorted(found, key=lambda file: file.name)


def _check_count(count: int, reference: AdapterReference) -> None:
    if count > _MOST_FILES:
        raise RegistryError(f"{reference}: holds more than {_MOST_FILES} files; name the directory of one adapter.")


def _copy_local(path: Path, target: Path, file: RemoteFile, source: str) -> None:
    try:
        # Not followed if it was made a link since it was listed.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as opened, target.open("xb") as written:
            _copy(opened, written, file.size)
    except OSError as error:
        raise RegistryError(f"{source}: {file.name} cannot be read: {error.strerror or error}.") from error


def _copy(source: Any, target: Any, size: int | None) -> None:
    """Copy, and stop one byte behind the listed size: that is enough to see that there is more."""
    left = (size if size is not None else 0) + 1
    while left > 0 and (chunk := source.read(min(_CHUNK_BYTES, left))):
        target.write(chunk)
        left -= len(chunk)


def _opened(reference: AdapterReference) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    system, root = url_to_fs(reference.location)
    system.invalidate_cache()
    return system, str(root).rstrip("/")


@contextmanager
def _told(reference: AdapterReference) -> Iterator[None]:
    """Turn what a file system of fsspec raises into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise RegistryError(f"{reference}: there is nothing ({error}); correct the reference.") from error
    except PermissionError as error:
        raise RegistryError(
            f"{reference}: the store does not let this account read it ({error}); set its credentials in the environment."
        ) from error
    except ImportError as error:
        raise RegistryError(f"{reference}: a library is missing to open it ({error}).") from error
    except RegistryError:
        raise
    except Exception as error:  # each store raises its own kinds, without a common ancestor
        reason = f"{type(error).__name__}: {error}"
        raise RegistryUnavailableError(f"{reference}: the store cannot be reached or failed ({reason}).") from error


def _remote_file(path: str, root: str, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    link = info.get("destination") if info.get("islink") else None
    if link is None and info.get("type") not in (None, "file"):
        link = f"a {info.get('type')}"
    name = path.removeprefix(root).removeprefix("/")
    return RemoteFile(name, size if isinstance(size, int) else None, link=None if link is None else str(link))
