"""Where studies are published to."""

from __future__ import annotations

import os

from dagster import ConfigurableResource
from pydantic import Field

from persona_assets.publication.destinations import FORMS

PUBLISH_VARIABLE = "PERSONA_PUBLISH_TO"


def publish_to() -> str:
    """Return where studies are published to, `PERSONA_PUBLISH_TO`; empty when they are not."""
    return os.environ.get(PUBLISH_VARIABLE, "").strip()


class Publishing(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """The registry that studies are published to; by default none."""

    destination: str = Field(
        default_factory=publish_to, description=f"{FORMS}; empty publishes nothing. {PUBLISH_VARIABLE} sets the default"
    )
