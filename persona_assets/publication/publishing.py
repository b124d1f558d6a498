"""Push what is not there yet, again when it fails for a moment, until everything is there or a sentence says why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from persona_assets.publication.bundles import Bundle
from persona_assets.publication.destinations import Destination
from persona_assets.publication.errors import PublicationError
from persona_assets.registry.base import RegistryError, RegistryUnavailableError
from persona_assets.registry.reference import AdapterReference

WAITS = (2.0, 8.0, 30.0)
"""Seconds between one attempt and the next; after the last one it is a failure."""


@dataclass(frozen=True)
class Published:
    """A bundle that is in the registry: where exactly, and whether it was sent now or had been there."""

    bundle: Bundle
    reference: AdapterReference
    sent: bool


def publish(
    bundles: Sequence[Bundle],
    destination: Destination,
    *,
    say: Callable[[str], object],
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Published]:
    """Bring bundles to a destination.

    What is there with the same bytes is not sent again, also when it arrived in an attempt whose answer was lost; so running
    it again after a failure goes on where it ended.

    Raises:
        PublicationError: not everything is there; the message says what is, what is not and why.
    """
    done: dict[str, Published] = {}
    for wait in (*waits, None):
        try:
            _attempt(bundles, destination, done, say)
            return [done[bundle.name] for bundle in bundles]
        except RegistryUnavailableError as error:
            if wait is None:
                raise PublicationError(_state(bundles, done, f"gave up after {len(waits) + 1} attempts. {error}")) from error
            say(f"{error} Trying again in {wait:g} s.")
            sleep(wait)
        except RegistryError as error:
            raise PublicationError(_state(bundles, done, str(error))) from error
    raise AssertionError("the last attempt returns or raises")


def _attempt(
    bundles: Sequence[Bundle], destination: Destination, done: dict[str, Published], say: Callable[[str], object]
) -> None:
    for bundle in bundles:
        if bundle.name not in done and (there := destination.find(bundle)) is not None:
            done[bundle.name] = Published(bundle, there, sent=False)
    waiting = {bundle.name: bundle for bundle in bundles if bundle.name not in done}
    if waiting:
        for name, reference in destination.push(list(waiting.values())):
            done[name] = Published(waiting[name], reference, sent=True)
            say(f"published {name} as {reference}")


def _state(bundles: Sequence[Bundle], done: dict[str, Published], reason: str) -> str:
    missing = [bundle.name for bundle in bundles if bundle.name not in done]
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return (
        f"{len(done)} of {len(bundles)} bundles are published, {shown} not: {reason} "
        f"Run it again when that is settled: what is there is not sent again."
    )
