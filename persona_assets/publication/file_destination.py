"""A directory, or a URL that fsspec opens: one folder for each content of a bundle, named after its digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from persona_assets.hashing import sha256_json
from persona_assets.publication.bundles import Bundle
from persona_assets.registry.base import Registry, RegistryError, RegistryUnavailableError
from persona_assets.registry.files import FileRegistry
from persona_assets.registry.reference import AdapterReference

_PASSING = (ConnectionError, TimeoutError)


class FileDestination:
    """`file:PLACE`; another content of a bundle goes to another folder, so that what was published never changes.

    The list of contents is written last: a folder without it is what an interrupted push left, and is written again.
    """

    def __init__(self, place: str) -> None:
        """Prepare a destination; nothing is written yet."""
        self.place = place
        self.registry: Registry = FileRegistry()

    def find(self, bundle: Bundle) -> AdapterReference | None:
        """Look for the folder of this content, with a list of contents that is the bundle's."""
        import fsspec

        reference = self._reference(bundle)
        with _told(reference):
            system, folder = fsspec.url_to_fs(reference.location)
            try:
                listed = system.cat_file(f"{folder}/{bundle.contents_file}")
            except FileNotFoundError:
                return None
        return reference if listed == bundle.files[bundle.contents_file].read_bytes() else None

    def push(self, bundles: Sequence[Bundle]) -> Iterator[tuple[str, AdapterReference]]:
        """Copy the files of each bundle, the list of contents last."""
        import fsspec

        for bundle in bundles:
            reference = self._reference(bundle)
            with _told(reference):
                system, folder = fsspec.url_to_fs(reference.location)
                for name in sorted(bundle.files, key=lambda name: (name == bundle.contents_file, name)):
                    target = f"{folder}/{name}"
                    system.makedirs(system._parent(target), exist_ok=True)
                    with bundle.files[name].open("rb") as source, system.open(target, "wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
            yield bundle.name, reference

    def close(self) -> None:
        """Nothing was started."""

    def _reference(self, bundle: Bundle) -> AdapterReference:
        return AdapterReference("file", f"{self.place}/{bundle.name}/{sha256_json(dict(bundle.sha256))[:16]}")


@contextmanager
def _told(reference: AdapterReference) -> Iterator[None]:
    """Turn what a file system raises into one sentence; also where reading failed, since what is read is about to be written."""
    try:
        yield
    except PermissionError as error:
        raise RegistryError(f"{reference}: this account may not write there ({error}); give it the right to.") from error
    except ImportError as error:
        raise RegistryError(f"{reference}: a library is missing to open it ({error}).") from error
    except _PASSING as error:
        raise RegistryUnavailableError(f"{reference}: does not answer ({error}).") from error
    except Exception as error:  # each store raises its own kinds, without a common ancestor
        raise RegistryError(f"{reference}: cannot be written ({type(error).__name__}: {error}).") from error
