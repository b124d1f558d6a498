"""The functions that make products, by name, with the version of each; and the product that one of them makes."""

from __future__ import annotations

from persona_assets.store import Product

# Raise a producer's version when its results change: what it made before is then stale.
VERSIONS = {
    "base_model": "1",
    "training_answers": "1",
    "training_dataset": "1",
    "adapter": "1",
    "merged_model": "1",
    "layer_centroids": "1",
    "base_cells": "1",
    "engine_parity": "1",
    "eval_cells": "1",
    "marker_scores": "1",
    "source_rates": "2",
    "geometry": "1",
    "regressions": "4",
    "off_diagonal": "1",
    "power": "1",
    "attenuation": "2",
    "gates": "3",
    "inherited_drift": "2",
    "remeasurement_drift": "1",
    "retest": "1",
    "figures": "4",
    "clean_result": "3",
    "overview": "3",
    "warehouse": "1",
    "publication": "1",
}


def product_of(path: str, producer: str, parameters: dict[str, object], *inputs: str) -> Product:
    """Describe a product: its place, who makes it, what its fingerprint covers and the places of its inputs."""
    return Product(path=path, producer=producer, version=VERSIONS[producer], parameters=parameters, inputs=inputs)
