"""Open the registry that a reference names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from persona_assets.registry.base import Registry, RegistryError
from persona_assets.registry.files import FileRegistry
from persona_assets.registry.hub import HubRegistry
from persona_assets.registry.reference import Scheme


@dataclass(frozen=True)
class RegistrySettings:
    """Where registries are; plain values, so that they travel to worker processes. Keys come from the environment alone.

    Attributes:
        hub_endpoint: address of the Hugging Face Hub; None takes `HF_ENDPOINT`, or the public one.
    """

    hub_endpoint: str | None = None


def open_registry(scheme: Scheme, settings: RegistrySettings) -> Registry:
    """Open a registry; nothing is asked of it yet.

    Raises:
        RegistryError: this kind cannot be opened.
    """
    registries: Mapping[str, Registry] = {"file": FileRegistry(), "hf": HubRegistry(settings.hub_endpoint)}
    if scheme not in registries:
        raise RegistryError(f"{scheme}: adapters cannot be pulled from there yet; use {' or '.join(registries)}.")
    return registries[scheme]
