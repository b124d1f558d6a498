"""Checkpoint directories: what one must hold, and how one is fetched from the Hugging Face Hub by commit."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from persona_assets.errors import PersonaAssetsError
from persona_assets.hashing import sha256_file, sha256_json
from persona_assets.hub_errors import hub_failure

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOCAL_DIGEST = re.compile(r"[0-9a-f]{64}")
_NEEDED_PATTERNS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    WEIGHTS_INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Fetched and digested; pickles and Python files never are."""

_verified: set[Path] = set()


class CheckpointError(PersonaAssetsError):
    """A checkpoint is missing, incomplete, corrupted or not usable."""


class BaseSnapshot(NamedTuple):
    """A base model on this machine.

    Attributes:
        path: an ordinary checkpoint directory.
        commit: the Hub's commit sha (40 hexadecimal digits), or the sha256 over the files of a local
            directory (64).
    """

    path: Path
    commit: str


def check_checkpoint(checkpoint: Path) -> None:
    """Check that a directory holds a configuration and all its safetensors files.

    Raises:
        CheckpointError: naming what is missing.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint}: there is no such checkpoint directory; materialize base_model, or correct the "
            "path."
        )
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(
            f"{checkpoint}: is not a checkpoint, config.json is missing; fetch or materialize it again."
        )
    missing = [name for name in _weight_files(checkpoint) if not (checkpoint / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: the checkpoint is incomplete, {', '.join(missing)} missing; fetch or "
            f"materialize it again (weights must be safetensors, pickled weights are not read)."
        )


def resolve_hub_base(
    repo_id: str, revision: str, cache_dir: Path | None = None, *, endpoint: str | None = None
) -> BaseSnapshot:
    """Return a base model's directory and the commit it is pinned to, fetching what is not in the cache.

    Only the configuration, safetensors weights and tokenizer files are fetched. Every file is compared with
    the digest that the Hub gave for it, once per process. A commit that is in the cache is used without the
    network.

    Args:
        repo_id: `owner/name` on the Hub; or a local checkpoint directory, written absolute or beginning with
            `.` or `~`.
        revision: a commit sha; or a branch or tag, which is resolved to a commit first. For a local directory
            the sha256 returned earlier, to insist that nothing changed, or any other word.
        cache_dir: the Hub's cache; by default the client's own (HF_HOME, HF_HUB_CACHE).
        endpoint: the Hub's address; by default the client's own (HF_ENDPOINT).

    Raises:
        CheckpointError: the Hub cannot be reached, repository or revision do not exist or are not open to
            this account, a file is corrupted, or the checkpoint is not complete.
    """
    if repo_id.startswith(("/", ".", "~")):
        return _local_base(Path(repo_id).expanduser().resolve(), revision)
    commit = revision
    snapshot = _cached_snapshot(repo_id, commit, cache_dir) if _COMMIT.fullmatch(revision) else None
    if snapshot is None:
        commit = _resolve_commit(repo_id, revision, endpoint)
        snapshot = _download(repo_id, commit, cache_dir, endpoint)
    check_checkpoint(snapshot)
    if not (snapshot / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{repo_id} at {commit} has no tokenizer.json; use a model with a fast tokenizer."
        )
    if snapshot not in _verified:
        _verify(repo_id, snapshot)
        _verified.add(snapshot)
    return BaseSnapshot(snapshot, commit)


def hub_base_is_here(repo_id: str, revision: str, cache_dir: Path | None = None) -> bool:
    """Say whether a base model needs no download: a local directory, or a commit that the Hub's cache holds."""
    if repo_id.startswith(("/", ".", "~")):
        return True
    return bool(_COMMIT.fullmatch(revision)) and _cached_snapshot(repo_id, revision, cache_dir) is not None


def _weight_files(checkpoint: Path) -> list[str]:
    index = checkpoint / WEIGHTS_INDEX_FILE
    if not index.is_file():
        return [WEIGHTS_FILE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: is not a safetensors index; fetch or materialize the checkpoint again."
        ) from error
    if outside:
        raise CheckpointError(
            f"{index}: names the file {outside[0]!r} outside the checkpoint; do not use this model."
        )
    return names


def _local_base(directory: Path, revision: str) -> BaseSnapshot:
    check_checkpoint(directory)
    digest = sha256_json({path.name: sha256_file(path) for path in _needed_files(directory)})
    if _LOCAL_DIGEST.fullmatch(revision) and revision != digest:
        raise CheckpointError(
            f"{directory}: the checkpoint changed: its files have the digest {digest}, pinned is {revision}; "
            f"restore it, or materialize base_model again."
        )
    return BaseSnapshot(directory, digest)


def _needed_files(directory: Path) -> list[Path]:
    return sorted({path for pattern in _NEEDED_PATTERNS for path in directory.glob(pattern)})


def _resolve_commit(repo_id: str, revision: str, endpoint: str | None) -> str:
    # Not snapshot_download's own resolution: without a network that takes the last known commit without
    # a word.
    from huggingface_hub import HfApi

    with _HubErrors(repo_id, revision):
        commit = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision).sha
    if commit is None or not _COMMIT.fullmatch(commit):
        raise CheckpointError(
            f"The Hub gave no commit sha for {repo_id} at {revision!r}; look at HF_ENDPOINT."
        )
    return commit


def _cached_snapshot(repo_id: str, commit: str, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with _HubErrors(repo_id, commit, passing=LocalEntryNotFoundError):
            return Path(
                snapshot_download(
                    repo_id,
                    revision=commit,
                    cache_dir=cache_dir,
                    allow_patterns=list(_NEEDED_PATTERNS),
                    local_files_only=True,
                )
            )
    except LocalEntryNotFoundError:
        return None


def _download(repo_id: str, commit: str, cache_dir: Path | None, endpoint: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with _HubErrors(repo_id, commit):
        return Path(
            snapshot_download(
                repo_id,
                revision=commit,
                cache_dir=cache_dir,
                allow_patterns=list(_NEEDED_PATTERNS),
                endpoint=endpoint,
            )
        )


def _verify(repo_id: str, snapshot: Path) -> None:
    """Compare every file with the digest the Hub gave, by which the cache names its blobs.

    The client itself compares sizes only. Files in git are named by git's sha1, large ones by their sha256.
    """
    for path in _needed_files(snapshot):
        blob = path.resolve()
        if _LOCAL_DIGEST.fullmatch(blob.name):
            actual = sha256_file(blob)
        elif _COMMIT.fullmatch(blob.name):
            content = blob.read_bytes()
            actual = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        else:
            raise CheckpointError(
                f"{path}: the Hub's cache does not link to a blob named by its digest, so the file cannot "
                f"be verified; put the cache (HF_HOME) on a file system with symbolic links."
            )
        if actual != blob.name:
            raise CheckpointError(
                f"{path}: corrupted download of {repo_id}: its digest is {actual}, the Hub's is {blob.name}; "
                f"delete {blob} and run again."
            )


_ADVICE = {
    "gated": "the repository is gated: accept its terms on the Hub and set HF_TOKEN",
    "bad_key": "the Hub does not accept the key in HF_TOKEN: correct it, or unset it",
    "no_repository": "there is no such repository, or it is private: correct base_model.repo_id, or set HF_TOKEN",
    "no_revision": "the repository has no such revision: correct base_model.revision",
    "bad_name": "this is no repository name: correct base_model.repo_id (owner/name, /path or ./path)",
}


class _HubErrors:
    """Turns the Hub client's errors into one that says what to do."""

    def __init__(self, repo_id: str, revision: str, passing: type[Exception] | None = None) -> None:
        self._what = f"{repo_id} at {revision!r}"
        self._passing = passing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or (self._passing is not None and isinstance(error, self._passing)):
            return
        failure = hub_failure(error)
        if failure is None:
            return
        advice = _ADVICE.get(
            failure,
            "the Hub cannot be reached or failed, and the commit is not in the cache: set HF_ENDPOINT "
            "to a mirror, or HF_HOME to a cache that has it and base_model.revision to its commit sha, "
            "or base_model.repo_id to a local checkpoint directory",
        )
        raise CheckpointError(
            f"Cannot get {self._what}: {advice}. ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
