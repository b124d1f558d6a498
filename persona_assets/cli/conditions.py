"""How a profile measures, for a user who states at import that an earlier study was measured in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persona_assets.assets.products import Products


def conditions_here(products: Products) -> dict[str, object]:
    """The conditions under which this profile measures, as far as they are known.

    The digests of base model and chat template need the base model in the lake; what an engine settles when it starts (its
    arguments, a device of `auto`) needs replies of the base model, drawn as the profile draws them now.
    """
    from persona_assets.assets.shared import measurement_identity

    profile = products.catalog.profile
    runtime = profile.runtime
    found: dict[str, object] = {
        "engine": runtime.engine,
        "decoder": runtime.decoder if runtime.engine == "transformers" else runtime.engine,
        "weights": runtime.weights,
        "dtype": runtime.dtype,
        "device": None if runtime.device == "auto" else runtime.device,
        **profile.evaluation.sampling.model_dump(mode="json"),
    }
    try:
        found["engine_version"] = version(runtime.engine)
    except PackageNotFoundError:
        found["engine_version"] = None
    if products.store.manifest(products.base_path) is not None:
        found |= measurement_identity(products)
    settled = _recorded_identity(products)
    return found | {name: settled.get(name) for name in ("engine_arguments", "device") if found.get(name) is None}


def _recorded_identity(products: Products) -> Mapping[str, object]:
    """Identity of the base model's replies in the lake, if they were drawn as the profile draws them now."""
    for persona in products.catalog.panel.ids:
        product = products.base_cells(persona)
        if products.state(product) == "current":
            identity = products.store.verified(product.path).facts["identity"]
            assert isinstance(identity, Mapping)
            return identity
    return {}
