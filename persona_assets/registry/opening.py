"""Open the registry that a reference names."""

from __future__ import annotations

from dataclasses import dataclass

from persona_assets.registry.base import Registry
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
    """Open a registry; nothing is asked of it yet."""
    if scheme == "wandb":
        from persona_assets.registry.wandb_registry import WandbRegistry

        return WandbRegistry()
    return FileRegistry() if scheme == "file" else HubRegistry(settings.hub_endpoint)
