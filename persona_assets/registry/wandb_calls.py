"""What the registry of Weights & Biases does with the SDK: every function here runs in a guarded process."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from persona_assets.registry.base import RegistryError, RegistryUnavailableError
from persona_assets.wandb_process import explain

_API_SECONDS = 60
_OWN_FILES_BYTES = 1 << 20


@dataclass(frozen=True)
class WandbVersion:
    """One version of an artifact: `source` is its lasting name `ENTITY/PROJECT/NAME:vN`, whatever it was asked by."""

    source: str
    digest: str
    metadata: Mapping[str, object]


@dataclass(frozen=True)
class WandbEntry:
    """One entry of an artifact's manifest; `reference` is set when the bytes lie somewhere else."""

    name: str
    size: int | None
    digest: str
    algorithm: str
    reference: str | None


@dataclass(frozen=True)
class WandbUpload:
    """An artifact to log: local file by name, and what is kept with it."""

    name: str
    type: str
    files: Mapping[str, Path]
    metadata: Mapping[str, object]


def describe(name: str) -> WandbVersion:
    """Look up `ENTITY/PROJECT/NAME:VERSION`."""
    with _translated(name):
        artifact = _artifact(name)
        return WandbVersion(artifact.source_qualified_name, artifact.digest, dict(artifact.metadata))


def entries(name: str) -> list[WandbEntry]:
    """Read the manifest of a version; no file of it is fetched."""
    with _translated(name):
        return [
            WandbEntry(
                path, entry.size, entry.digest, entry.digest_algorithm().name, None if entry.ref is None else str(entry.ref)
            )
            for path, entry in _artifact(name).manifest.entries.items()
        ]


def download(name: str, wanted: Mapping[str, int], into: Path) -> Iterator[str]:
    """Fetch some entries into a directory, past the SDK's cache; yields each name when it is there.

    Args:
        name: of the version.
        wanted: the largest number of bytes that each entry may have; what comes beyond it ends the download.
        into: an empty directory.
    """
    for path, size in wanted.items():
        with _translated(f"{name}: {path}"):
            entry = _artifact(name).get_entry(path)
            if entry.ref is not None:
                raise RegistryError(f"{name}: {path} is a reference to {entry.ref}, which is not followed.")
            with _at_most(size, f"{name}: {path}"):
                entry.download(root=str(into), skip_cache=True)
        yield path


def upload(entity: str, project: str, run_name: str, uploads: Sequence[WandbUpload], seconds: float) -> Iterator[tuple[str, str]]:
    """Log artifacts in a run of their own; yields name and `ENTITY/PROJECT/NAME:vN` of each once the server has committed it."""
    import wandb

    with _translated(f"{entity}/{project}"):
        _api()  # checks the key, which a run that starts does not tell from other refusals
        run = wandb.init(entity=entity, project=project, name=run_name, job_type="publication", reinit="create_new")
    try:
        for each in uploads:
            with _translated(f"{entity}/{project}/{each.name}"):
                artifact = wandb.Artifact(each.name, each.type, metadata=dict(each.metadata))
                for name, file in each.files.items():
                    artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
                logged = run.log_artifact(artifact).wait(round(seconds))
                source = logged.source_qualified_name
            yield each.name, source
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


_open: dict[str, Any] = {}


@cache
def _api() -> Any:
    import wandb

    return wandb.Api(timeout=_API_SECONDS)


def _artifact(name: str) -> Any:
    """Look an artifact up; one that was looked up by its lasting name is kept, since its contents never change."""
    if name not in _open:
        found = _api().artifact(name)
        if found.source_qualified_name != name:
            return found
        _open[name] = found
    return _open[name]


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn whatever the SDK raises into one sentence."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        clause, passing = explain(error)
        raise (RegistryUnavailableError if passing else RegistryError)(f"wandb:{what}: {clause}.") from error


@contextmanager
def _at_most(size: int, what: str) -> Iterator[None]:
    """Let this process write no file larger than `size` bytes: a server may send more than its manifest says."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Not less than the SDK's own small files need; a few bytes too many are found when the file is compared.
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, _OWN_FILES_BYTES), before[1]))
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise RegistryError(f"wandb:{what} is larger than the {size} bytes that its manifest says.") from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
