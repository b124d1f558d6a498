"""Where bundles go: a directory or URL, a project of Weights & Biases, a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from persona_assets.errors import ConfigurationError
from persona_assets.publication.bundles import Bundle
from persona_assets.registry.base import Registry, RegistryError, RegistryUnavailableError, file_digest
from persona_assets.registry.reference import AdapterReference, parse_reference

FORMS = "file:/ABSOLUTE/PATH, file:PROTOCOL://..., wandb:ENTITY/PROJECT or hf:ORG/REPO"


class Destination(Protocol):
    """A place that bundles are pushed to, and the registry that reads them back."""

    @property
    def registry(self) -> Registry:
        """Reads back what was pushed."""
        ...

    def find(self, bundle: Bundle) -> AdapterReference | None:
        """Return the pinned reference to what is there already with the very bytes of a bundle, None when it is not.

        Raises:
            RegistryUnavailableError: the registry does not answer.
        """
        ...

    def push(self, bundles: Sequence[Bundle]) -> Iterator[tuple[str, AdapterReference]]:
        """Push bundles; yields the name and pinned reference of each once the registry has taken all of it.

        Raises:
            RegistryUnavailableError: it may work later; what was yielded is there.
            RegistryError: it will not work like this.
        """
        ...

    def close(self) -> None:
        """End what it started."""
        ...


def open_destination(text: str) -> Destination:
    """Open the destination that a text such as `wandb:ENTITY/PROJECT` names; nothing is sent yet.

    Raises:
        ConfigurationError: it names none.
    """
    scheme, _, place = text.partition(":")
    try:
        if scheme == "wandb":
            from persona_assets.publication.wandb_destination import WandbDestination

            entity, project, _ = parse_reference(f"wandb:{place}/name:latest").location.split("/")
            return WandbDestination(entity, project)
        if scheme == "hf":
            from persona_assets.publication.hf_destination import HubDestination

            return HubDestination(parse_reference(f"hf:{place}@main").location)
        if scheme == "file":
            from persona_assets.publication.file_destination import FileDestination

            return FileDestination(parse_reference(text).location)
    except ConfigurationError as error:
        raise ConfigurationError(f"Cannot publish to {text!r}: expected {FORMS} ({error})") from error
    raise ConfigurationError(f"Cannot publish to {text!r}: expected {FORMS}.")


def newest_if_same(registry: Registry, newest: AdapterReference, bundle: Bundle) -> AdapterReference | None:
    """Pin the newest version of something if its listing is that of a bundle, name by name and digest by digest.

    Raises:
        RegistryUnavailableError: the registry does not answer.
    """
    try:
        resolved = registry.resolve(newest)
        listed = {file.name: file for file in registry.listing(resolved)}
    except RegistryUnavailableError:
        raise
    except RegistryError:  # not there; if the registry refuses altogether, pushing says so
        return None
    if set(listed) != set(bundle.files):
        return None
    for name, file in listed.items():
        if file.digest is None or file.algorithm is None or file.digest != file_digest(bundle.files[name], file.algorithm):
            return None
    return resolved.pinned
