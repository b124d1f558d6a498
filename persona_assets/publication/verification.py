"""Prove that a publication arrived: download it, fresh and pinned, and compare bytes and schemas with the record."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from persona_assets.hashing import sha256_file
from persona_assets.publication.errors import PublicationError
from persona_assets.publication.record import RecordedBundle, RecordedFile, file_schema
from persona_assets.registry.base import Registry, RegistryError


def verify(bundles: Iterable[RecordedBundle], registry: Registry) -> Iterator[tuple[str, list[str]]]:
    """Compare what a registry gives with what was recorded.

    Yields:
        Name of each bundle, and what is wrong with it: empty when every byte is as recorded.
    """
    for bundle in bundles:
        with tempfile.TemporaryDirectory(prefix="persona-assets-verify-") as scratch:
            yield bundle.name, list(_faults(bundle, registry, Path(scratch)))


def _faults(bundle: RecordedBundle, registry: Registry, scratch: Path) -> Iterator[str]:
    try:
        resolved = registry.resolve(bundle.reference)
        if resolved.pinned != bundle.reference:
            yield f"{bundle.reference} now names {resolved.pinned}."
            return
        listed = {file.name: file for file in registry.listing(resolved)}
        for name in sorted(set(bundle.files) ^ set(listed)):
            said = "is not there" if name in bundle.files else "is there and was not published"
            yield f"{bundle.reference}: {name} {said}."
        both = [listed[name] for name in bundle.files if name in listed]
        for file in both:
            (scratch / file.name).parent.mkdir(parents=True, exist_ok=True)
        registry.fetch(resolved, both, scratch)
    except RegistryError as error:
        yield str(error)
        return
    for file in both:
        yield from _file_faults(bundle.files[file.name], scratch / file.name, f"{bundle.reference}: {file.name}")


def _file_faults(recorded: RecordedFile, file: Path, what: str) -> Iterator[str]:
    if (found := sha256_file(file)) != recorded.sha256:
        yield f"{what} came back with sha256 {found}; {recorded.sha256} was published."
    try:
        schema = file_schema(file)
    except PublicationError as error:
        yield f"{what} came back as something that cannot be read ({error})."
        return
    if schema != recorded.schema:
        differing = sorted(name for name in {*schema, *recorded.schema} if schema.get(name) != recorded.schema.get(name))
        yield f"{what} came back with another schema: {', '.join(differing[:5])}."
