"""What a run left outside the lake: where the study was published, and metrics that still wait to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.study import Study


def outside_lines(deployment: Deployment, study: Study) -> Iterator[str]:
    """Say what is where, a line each; nothing when nothing is published or tracked."""
    from resources.publishing import publish_to
    from resources.tracker import track_to, unsent_message

    products = deployment.products
    if destination := publish_to():
        manifest = products.store.manifest(products.publication(study, destination).path)
        if manifest is not None:
            references = manifest.facts["references"]
            assert isinstance(references, dict)
            yield f"Published: {len(references)} bundles in {destination}, pinned in {products.store.directory(manifest.path)}"
    if track_to() and (message := unsent_message()):
        yield message
