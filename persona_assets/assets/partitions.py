"""Partitions and names: personas in panel order, groups and keys that Dagster accepts."""

from __future__ import annotations

import re
from collections.abc import Collection

from dagster import AssetKey, PartitionMapping, StaticPartitionMapping, StaticPartitionsDefinition

from persona_assets.assets.products import Products
from persona_assets.catalog import Catalog
from persona_assets.panel import Panel


def persona_partitions(panel: Panel) -> StaticPartitionsDefinition:
    """One partition for each persona, in panel order; ranges follow it, so personas are only ever appended."""
    return StaticPartitionsDefinition(list(panel.ids))


def same_persona(upstream: Panel, downstream: Panel) -> StaticPartitionMapping:
    """Map each persona that both panels have to itself."""
    return StaticPartitionMapping({persona: persona for persona in upstream.ids if persona in downstream.ids})


def all_but(panel: Panel, left_out: Collection[str]) -> PartitionMapping | None:
    """Map each persona to itself, and those left out to nothing; None, the plain mapping, when none is left out."""
    if not left_out:
        return None
    return StaticPartitionMapping({persona: persona for persona in panel.ids if persona not in left_out})


def answers_of_dataset(products: Products) -> StaticPartitionMapping:
    """Map a persona's answers to the training datasets that hold them: its own, and those it is a negative of."""
    users: dict[str, list[str]] = {persona: [persona] for persona in products.catalog.panel.ids}
    for source in products.catalog.panel.ids:
        for negative in products.negatives(source):
            users[negative].append(source)
    return StaticPartitionMapping(users)


def group_name(profile: str, study: str | None = None) -> str:
    """Name of the group of a profile's shared work, or of one of its studies."""
    return re.sub(r"[^a-z0-9]+", "_", profile if study is None else f"{profile}_{study}")


def shared_key(profile: str, asset: str) -> AssetKey:
    """Key of an asset that all studies of a profile share."""
    return AssetKey([profile, asset])


def study_key(profile: str, study: str, asset: str) -> AssetKey:
    """Key of an asset of one study."""
    return AssetKey([profile, study, asset])


def seeded(asset: str, seed: int, catalog: Catalog) -> str:
    """Name of an asset that exists once per training seed; the profile's first seed has the plain name."""
    return asset if seed == catalog.seeds[0] else f"{asset}_seed{seed}"
