"""What a failure of the Hugging Face Hub's client means, in one word: each caller says in its own words what to do."""

from __future__ import annotations

from typing import Literal

HubFailure = Literal["gated", "bad_key", "no_repository", "no_revision", "no_file", "bad_name", "unreachable", "refused"]


def hub_failure(error: BaseException) -> HubFailure | None:
    """Classify an error; None when it does not come from the Hub or the way to it."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

    # The order matters: the special kinds are subclasses of the general ones.
    kinds: tuple[tuple[type[BaseException], HubFailure], ...] = (
        (GatedRepoError, "gated"),
        (RepositoryNotFoundError, "no_repository"),
        (RevisionNotFoundError, "no_revision"),
        (HFValidationError, "bad_name"),
        (LocalEntryNotFoundError, "unreachable"),
        (EntryNotFoundError, "no_file"),
    )
    for kind, failure in kinds:
        if isinstance(error, kind):
            return failure
    if isinstance(error, ValueError) and error.__cause__ is not None:  # how the client reports a download that was forced
        return hub_failure(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        return "bad_key" if status == 401 else "refused"
    return "unreachable" if isinstance(error, TransportError | OSError) else None
