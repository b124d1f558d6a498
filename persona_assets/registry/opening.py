"""Open the registry that a reference names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from persona_assets.registry.base import Registry
from persona_assets.registry.reference import Scheme


@dataclass(frozen=True)
class RegistrySettings:
    """Where registries are; plain values, so that they travel to worker processes. Keys come from the environment alone.

    Attributes:
        hub_endpoint: address of the Hugging Face Hub; None takes `HF_ENDPOINT`, or the public one.
        wandb_seconds: the longest wait for an answer of Weights & Biases, whose address is `WANDB_BASE_URL`.
    """

    hub_endpoint: str | None = None
    wandb_seconds: float = 120.0


@contextmanager
def open_registry(scheme: Scheme, settings: RegistrySettings) -> Iterator[Registry]:
    """Open a registry, and close it at the end; nothing is asked of it yet."""
    if scheme == "file":
        from persona_assets.registry.files import FileRegistry

        yield FileRegistry()
    elif scheme == "hf":
        from persona_assets.registry.hub import HubRegistry

        yield HubRegistry(settings.hub_endpoint)
    else:
        from persona_assets.registry.wandb_registry import WandbRegistry

        registry = WandbRegistry(seconds=settings.wandb_seconds)
        try:
            yield registry
        finally:
            registry.close()
