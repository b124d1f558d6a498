"""Products on disk: directories with a manifest, written whole or not at all.

A product is a directory whose `manifest.json` records the fingerprint of what it was made from and the
sha256 of every file in it. It is written as a temporary sibling, synced, read back, verified and renamed;
so a reader sees the old product, or none, or the new one, never a part of one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from persona_assets.errors import LakeError
from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.product_files import (
    MANIFEST,
    data_version,
    describe_files,
    library_versions,
    make_readable,
    sync_directory,
    sync_files,
    write_whole,
)
from persona_assets.replacing import clear_leftovers, move_into_place, temporary_sibling

__all__ = ["EVICTED", "MANIFEST", "Manifest", "Product", "State", "Store"]

EVICTED = "evicted.json"

State = Literal["missing", "stale", "current"]


@dataclass(frozen=True)
class Product:
    """What a product is made from: everything its fingerprint covers.

    Attributes:
        path: place in the store, relative to its root, with forward slashes.
        producer: name of the function that makes it.
        version: version of that function; raise it when its results change.
        parameters: plain JSON values that the result depends on.
        inputs: paths of the products it reads.
    """

    path: str
    producer: str
    version: str
    parameters: Mapping[str, object]
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What is known of a product that was written."""

    path: str
    producer: str
    version: str
    fingerprint: str
    parameters: Mapping[str, object]
    inputs: Mapping[str, str]
    files: Mapping[str, Mapping[str, str | int]]
    data_version: str
    facts: Mapping[str, object]
    run_id: str
    made_at: str
    libraries: Mapping[str, str] = field(default_factory=dict)


class Store:
    """Products under one root directory."""

    def __init__(self, root: Path) -> None:
        """Open a store; the directory is created when the first product is written."""
        self.root = root

    def directory(self, path: str) -> Path:
        """Return the directory of a product, whether it exists or not."""
        return self.root.joinpath(*path.split("/"))

    def manifest(self, path: str) -> Manifest | None:
        """Read a product's manifest without checking its files; None when the product is not there.

        Raises:
            LakeError: there is a manifest that cannot be read.
        """
        file = self.directory(path) / MANIFEST
        if not file.is_file():
            return None
        try:
            return Manifest(**json.loads(file.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise LakeError(f"{file}: not a manifest ({error}). Delete the directory {file.parent} and run again.") from error

    def verified(self, path: str) -> Manifest:
        """Read a product's manifest and check that every file is what it says.

        Raises:
            LakeError: the product is missing, or a file of it is missing, added or changed; the message names it.
        """
        manifest = self.manifest(path)
        if manifest is None:
            raise LakeError(f"{path} is not in the lake {self.root}: materialize it first.")
        fault = self._fault(path, manifest)
        if fault:
            raise LakeError(f"{self.directory(path)}: {fault}. Materialize {path} again; it will be rebuilt.")
        return manifest

    def open(self, path: str) -> Path:
        """Return the directory of a product whose files were verified and are all there.

        Raises:
            LakeError: as `verified` does; or files were evicted.
        """
        self.verified(path)
        gone = self.evicted(path)
        if gone:
            raise LakeError(
                f"{self.directory(path)}: {', '.join(gone[:3])} {'was' if len(gone) == 1 else 'were'} removed to save disk. "
                f"Materialize {path} with runtime.merged_weights set to kept to have them again."
            )
        return self.directory(path)

    def evict(self, path: str, names: Iterable[str], why: str) -> int:
        """Remove files of a product to save disk; it stays what it was, with its manifest and data version.

        Args:
            path: the product.
            names: files as its manifest names them; those that are gone already are passed over.
            why: kept beside the manifest.

        Returns:
            Bytes freed.

        Raises:
            LakeError: the product is not there, or its manifest has no such file.
        """
        manifest, directory = self.manifest(path), self.directory(path)
        if manifest is None:
            raise LakeError(f"{path} is not in the lake {self.root}, so nothing of it can be evicted.")
        chosen = sorted(names)
        unknown = [name for name in chosen if name not in manifest.files]
        if unknown:
            raise LakeError(f"{path}: has no file {unknown[0]}, so it cannot be evicted.")
        # Said before it is done: files that are there and said to be gone do no harm, missing ones are damage.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        listed = {"files": sorted({*chosen, *self._listed(path)}), "why": why, "at": now}
        temporary = temporary_sibling(directory)
        write_whole(directory / EVICTED, (json.dumps(listed, indent=1, sort_keys=True) + "\n").encode(), temporary)
        freed = 0
        for name in chosen:
            file = directory / name
            if file.is_file():
                freed += file.stat().st_size
                file.unlink()
        sync_directory(directory)
        return freed

    def evicted(self, path: str) -> tuple[str, ...]:
        """List the files of a product that were evicted and are not there."""
        directory = self.directory(path)
        return tuple(name for name in self._listed(path) if not (directory / name).exists())

    def size(self, path: str) -> int:
        """Bytes of a product's files that are there; 0 when it is not in the store."""
        manifest = self.manifest(path)
        gone = set(self.evicted(path))
        return 0 if manifest is None else sum(int(facts["size"]) for name, facts in manifest.files.items() if name not in gone)

    def _listed(self, path: str) -> list[str]:
        file = self.directory(path) / EVICTED
        if not file.is_file():
            return []
        try:
            return [str(name) for name in json.loads(file.read_text(encoding="utf-8"))["files"]]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LakeError(f"{file}: cannot be read ({error}). Delete the directory {file.parent} and run again.") from error

    def fingerprint(self, product: Product) -> str | None:
        """Digest what a product is made from; None while an input is missing."""
        inputs = self._input_versions(product)
        if inputs is None:
            return None
        return sha256_json(
            {
                "path": product.path,
                "producer": product.producer,
                "version": product.version,
                "parameters": dict(product.parameters),
                "inputs": inputs,
            }
        )

    def state(self, product: Product) -> State:
        """Say whether a product is there and made from what its inputs are now; files are not read."""
        manifest = self.manifest(product.path)
        if manifest is None:
            return "missing"
        return "current" if manifest.fingerprint == self.fingerprint(product) else "stale"

    def current(self, product: Product, *, whole: bool = False) -> Manifest | None:
        """Return the manifest of a product that needs no work: same fingerprint, every file intact.

        Args:
            product: what is wanted.
            whole: whether one whose files were evicted has to be made again.
        """
        if self.state(product) != "current" or (whole and self.evicted(product.path)):
            return None
        manifest = self.manifest(product.path)
        assert manifest is not None
        return None if self._fault(product.path, manifest) else manifest

    def fault(self, path: str) -> str | None:
        """Say what is wrong with the files of a product that has a manifest; None when nothing is."""
        manifest = self.manifest(path)
        return None if manifest is None else self._fault(path, manifest)

    @contextmanager
    def staging(self, product: Product) -> Iterator[Path]:
        """Give an empty directory beside a product's place, removed at the end if it is still there."""
        directory = self.new_staging(product)
        try:
            yield directory
        finally:
            self.discard([directory])

    @staticmethod
    def discard(directories: Iterable[Path]) -> None:
        """Remove staging directories that were not published."""
        for directory in directories:
            if directory.exists():
                shutil.rmtree(directory)

    def new_staging(self, product: Product) -> Path:
        """Create an empty staging directory; the caller publishes or removes it, a later `sweep` what a crash left."""
        target = self.directory(product.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        directory = temporary_sibling(target)
        directory.mkdir()
        return directory

    def publish(
        self,
        product: Product,
        staging: Path,
        *,
        run_id: str,
        facts: Mapping[str, object] | None = None,
        check: Callable[[Path], None] | None = None,
        replace: bool = True,
    ) -> Manifest:
        """Turn a filled staging directory into the product.

        Args:
            product: what it is made from.
            staging: directory from `staging` that holds the product's files.
            run_id: who made it.
            facts: plain JSON values to keep with it that are not content (final loss, seconds, ...).
            check: reads the content back and raises when it is not what it should be.
            replace: False refuses when the product exists and was made from something else (measurements are never
                overwritten; one whose files were damaged is restored from the same inputs).

        Raises:
            LakeError: nothing was written, an input went missing, or what was read back differs.
        """
        inputs = self._input_versions(product)
        fingerprint = self.fingerprint(product)
        if inputs is None or fingerprint is None:
            raise LakeError(f"{product.path}: an input disappeared while it was made: {', '.join(self.missing_inputs(product))}.")
        there = self.manifest(product.path)
        if not replace and there is not None and there.fingerprint != fingerprint:
            raise LakeError(f"{product.path} exists and is never overwritten.")
        make_readable(staging)
        files = describe_files(staging)
        if not files:
            raise LakeError(f"{product.path}: {product.producer} wrote no file.")
        manifest = Manifest(
            path=product.path,
            producer=product.producer,
            version=product.version,
            fingerprint=fingerprint,
            parameters=dict(product.parameters),
            inputs=inputs,
            files=files,
            data_version=data_version(files),
            facts=dict(facts or {}),
            run_id=run_id,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            libraries=library_versions(),
        )
        (staging / MANIFEST).write_text(
            json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )
        sync_files(staging)
        if check is not None:
            check(staging)
        if describe_files(staging) != files:
            raise LakeError(f"{product.path}: the files changed between writing and reading back; nothing was published.")
        move_into_place(staging, self.directory(product.path))
        return manifest

    def missing_inputs(self, product: Product) -> list[str]:
        """List the inputs of a product that are not in the store."""
        return [path for path in product.inputs if self.manifest(path) is None]

    def sweep(self) -> list[Path]:
        """Clear what killed processes of this host left; return the directories and files that were removed or restored."""
        return clear_leftovers(self.root)

    def _input_versions(self, product: Product) -> dict[str, str] | None:
        versions = {}
        for path in product.inputs:
            manifest = self.manifest(path)
            if manifest is None:
                return None
            versions[path] = manifest.data_version
        return versions

    def _fault(self, path: str, manifest: Manifest) -> str | None:
        directory = self.directory(path)
        present = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()}
        present -= {MANIFEST, EVICTED}
        for name in sorted((present ^ set(manifest.files)) - set(self.evicted(path))):
            return f"the file {name} is {'not in the manifest' if name in present else 'missing'}"
        for name in sorted(present):
            file, recorded = directory / name, manifest.files[name]
            if file.stat().st_size != recorded["size"] or sha256_file(file) != recorded["sha256"]:
                return f"the file {name} does not match the sha256 in its manifest"
        if data_version(manifest.files) != manifest.data_version:
            return "the manifest's data version is not that of its files"
        return None
