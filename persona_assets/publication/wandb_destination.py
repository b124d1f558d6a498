"""A project of Weights & Biases: one artifact for each bundle, logged by a run of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from persona_assets.guarded import transfer_seconds
from persona_assets.publication.bundles import Bundle
from persona_assets.publication.destinations import newest_if_same
from persona_assets.registry import wandb_calls
from persona_assets.registry.guarding import guarded_told
from persona_assets.registry.reference import AdapterReference, parse_reference
from persona_assets.registry.wandb_registry import WandbRegistry

_TYPES = {"adapter": "model"}  # others are of type dataset, the one that every W&B project knows besides


class WandbDestination:
    """`wandb:ENTITY/PROJECT`; the bundle `embedded/n12/tables` is the artifact `embedded-n12-tables` there."""

    def __init__(self, entity: str, project: str, registry: WandbRegistry | None = None) -> None:
        """Prepare a destination; nothing is started yet."""
        self.entity, self.project = entity, project
        self.registry = registry or WandbRegistry()

    def find(self, bundle: Bundle) -> AdapterReference | None:
        """Compare the newest version's manifest with the bundle, digest by digest."""
        name = f"{self.entity}/{self.project}/{_artifact(bundle.name)}"
        return newest_if_same(self.registry, parse_reference(f"wandb:{name}:latest"), bundle)

    def push(self, bundles: Sequence[Bundle]) -> Iterator[tuple[str, AdapterReference]]:
        """Log the bundles one after the other; each is pinned when the server has committed it."""
        uploads = [
            wandb_calls.WandbUpload(_artifact(each.name), _TYPES.get(each.kind, "dataset"), each.files, each.contents)
            for each in bundles
        ]
        names = {_artifact(each.name): each.name for each in bundles}
        limit = transfer_seconds(self.registry.seconds, max((sum(_sizes(each)) for each in bundles), default=0))
        total = limit + self.registry.seconds
        with guarded_told(f"wandb:{self.entity}/{self.project}: the upload"):
            for artifact, source in self.registry.process.stream(
                wandb_calls.upload, self.entity, self.project, "publication", uploads, limit, seconds=total
            ):
                yield names[artifact], parse_reference(f"wandb:{source}")

    def close(self) -> None:
        """End the SDK."""
        self.registry.close()


def _artifact(name: str) -> str:
    return name.replace("/", "-")


def _sizes(bundle: Bundle) -> Iterator[int]:
    return (file.stat().st_size for file in bundle.files.values())
