"""Turn how a guarded call ended into an error of a registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from persona_assets.guarded import GuardedCallError, UnforeseenError
from persona_assets.registry.base import RegistryError, RegistryUnavailableError


@contextmanager
def guarded_told(what: str) -> Iterator[None]:
    """Say in one sentence that a client gave no answer in time, or something that nobody foresaw.

    Raises:
        RegistryUnavailableError: it took too long or its process died, which may be otherwise the next time.
        RegistryError: it raised something else.
    """
    try:
        yield
    except UnforeseenError as error:
        raise RegistryError(f"{what}: {error}.") from error
    except GuardedCallError as error:
        raise RegistryUnavailableError(f"{what}: {error}.") from error
