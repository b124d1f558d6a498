"""What pushing to the Hugging Face Hub does with its client: the function here runs in a guarded process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from persona_assets.hub_errors import hub_failure
from persona_assets.registry.base import RegistryUnavailableError
from persona_assets.registry.hub import HubRegistry, hub_told
from persona_assets.registry.reference import AdapterReference

_STALE = 412  # the commit that it was to follow is no longer the newest one
_PASSING = (408, 409, 425, 429)
_REJECTED = (400, 422)  # also what a file gets that was damaged on its way: sent again it may be taken


def commit(repo: str, folders: Mapping[str, Mapping[str, Path]], message: str) -> str:
    """Make folders of a repository hold these files and no others, in one commit on top of the newest one.

    Args:
        repo: `ORG/REPO`; created, private, when it is not there.
        folders: local file by name, for each folder.
        message: of the commit.

    Returns:
        The sha of the commit.

    Raises:
        RegistryUnavailableError: the Hub does not answer, or somebody else committed meanwhile.
        RegistryError: it will not work like this.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    reference = AdapterReference("hf", repo, "main")
    api = HubRegistry().api
    warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
    with hub_told(reference), _passing_told(reference):
        api.create_repo(repo, private=True, exist_ok=True)
        head = api.model_info(repo).sha
        there = set(api.list_repo_files(repo, revision=head))
        wanted = {f"{folder}/{name}": file for folder, files in folders.items() for name, file in files.items()}
        gone = [path for path in sorted(there - set(wanted)) if any(path.startswith(f"{folder}/") for folder in folders)]
        operations: list[CommitOperationAdd | CommitOperationDelete | CommitOperationCopy] = [
            *(CommitOperationDelete(path) for path in gone),
            *(CommitOperationAdd(path, str(file)) for path, file in wanted.items()),
        ]
        return str(api.create_commit(repo, operations, commit_message=message, parent_commit=head).oid)


@contextmanager
def _passing_told(reference: AdapterReference) -> Iterator[None]:
    """Turn what may be otherwise a little later into the error that says so."""
    try:
        yield
    except Exception as wrapped:  # noqa: BLE001  # it is raised again
        # An upload that failed in a thread is wrapped.
        error = wrapped.__cause__ if isinstance(wrapped, RuntimeError) and wrapped.__cause__ is not None else wrapped
        status = int(getattr(getattr(error, "response", None), "status_code", 0))
        if status == _STALE:
            raise RegistryUnavailableError(f"{reference}: somebody else committed meanwhile (HTTP {status}).") from error
        said = _first_line(error)
        if status in _REJECTED:
            raise RegistryUnavailableError(f"{reference}: the Hub refused what was sent ({said}).") from error
        if status in _PASSING or status >= 500 or hub_failure(error) == "unreachable":
            raise RegistryUnavailableError(f"{reference}: the Hub does not answer as it should ({said}).") from error
        raise error from None


def _first_line(error: BaseException) -> str:
    detail = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {detail[0]}" if detail else type(error).__name__
