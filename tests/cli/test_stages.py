"""Stages of a study's plan: keys that are no range of the panel are cut into ranges, which is what a Dagster run takes."""

from __future__ import annotations

import pytest
from dagster import AssetKey

from persona_assets.cli.running import PlannedAsset, persona_stages
from persona_assets.store import Product

PANEL = ("a", "b", "c", "d", "e")


def planned(name: str, keys: str) -> PlannedAsset:
    return PlannedAsset(AssetKey([name]), {key: lambda key=key: Product(f"{name}/{key}", name, "1", {}) for key in keys})


REST = ("personas", "abcde", ["adapter", "merged"])
DATA = "training data"


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ("abcde", [("personas", "abcde", ["dataset", "adapter", "merged"])]),
        ("", [REST]),
        ("cd", [(DATA, "cd", ["dataset"]), REST]),
        ("abe", [(DATA, "ab", ["dataset"]), (DATA, "e", ["dataset"]), REST]),
    ],
)
def test_assets_of_the_same_keys_run_together(datasets: str, expected: list[tuple[str, str, list[str]]]) -> None:
    stages = persona_stages([planned("dataset", datasets), planned("adapter", "abcde"), planned("merged", "abcde")], PANEL)
    assert [(stage.name, "".join(stage.personas), [asset.key.path[-1] for asset in stage.assets]) for stage in stages] == expected
    assert all(set(asset.products) == set(stage.personas) for stage in stages for asset in stage.assets)
    assert [make().path for make in stages[-1].assets[-1].products.values()] == [f"merged/{key}" for key in PANEL]
