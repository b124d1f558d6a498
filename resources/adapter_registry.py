"""Where inherited adapters are pulled from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource
from pydantic import Field

from persona_assets.registry.base import Registry, Resolved, latest_version
from persona_assets.registry.opening import RegistrySettings, open_registry
from persona_assets.registry.reference import AdapterReference


class AdapterRegistry(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Opens the registry that a reference names: a directory or fsspec URL, Weights & Biases, the Hugging Face Hub.

    A directory needs no account. Keys are read from the environment (HF_TOKEN, WANDB_API_KEY, those of a store), never from here.
    """

    hub_endpoint: str | None = Field(default=None, description="address of the Hugging Face Hub; HF_ENDPOINT sets the default")
    wandb_seconds: float = Field(
        default=120.0, gt=0, description="longest wait for an answer of W&B; WANDB_BASE_URL says where it is"
    )

    @property
    def settings(self) -> RegistrySettings:
        """The same as plain values, for a task in another process."""
        return RegistrySettings(self.hub_endpoint, self.wandb_seconds)

    @contextmanager
    def opened(self, reference: AdapterReference) -> Iterator[Registry]:
        """Open the registry of a reference."""
        with open_registry(reference.scheme, self.settings) as registry:
            yield registry

    def latest_version(self, reference: AdapterReference) -> Resolved:
        """Say which version is the newest one now, without fetching the adapter, also for a reference that is pinned.

        Raises:
            RegistryError: in one sentence: unreachable, not allowed, or not there.
        """
        with self.opened(reference) as registry:
            return latest_version(registry, reference)
