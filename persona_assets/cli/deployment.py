"""The deployment that the command line works on: studies, lake, Dagster instance, code location."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.catalog import Catalog, load_catalog
from persona_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions

    from persona_assets.assets.products import Products

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Deployment:
    """One profile of one deployment."""

    catalog: Catalog

    @property
    def products(self) -> Products:
        """The profile's products in the lake."""
        from persona_assets.assets.products import Products
        from resources.lake import Lake

        return Products(self.catalog, Lake())

    @property
    def definitions(self) -> Definitions:
        """The code location, as the UI loads it."""
        import definitions

        return definitions.defs

    @contextmanager
    def instance(self) -> Iterator[DagsterInstance]:
        """Open the Dagster instance that `make ui` serves."""
        from dagster import DagsterInstance

        with DagsterInstance.get() as instance:
            yield instance


def deployment_variables() -> None:
    """Say where studies, lake and Dagster instance are, to this process and those it starts, whatever the working directory.

    Environment variables win: PERSONA_STUDIES, PERSONA_LAKE, DAGSTER_HOME.

    Raises:
        ConfigurationError: DAGSTER_HOME cannot be used.
    """
    os.environ.setdefault("PERSONA_STUDIES", str(REPOSITORY / "studies"))
    os.environ.setdefault("PERSONA_LAKE", str(REPOSITORY / "data_lake"))
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(REPOSITORY / ".dagster")))
    if not home.is_absolute():
        raise ConfigurationError(f"DAGSTER_HOME is {str(home)!r}: Dagster needs an absolute path.")
    home.mkdir(parents=True, exist_ok=True)


def open_deployment(profile: str) -> Deployment:
    """Open one profile of the deployment that `deployment_variables` finds.

    Raises:
        ConfigurationError: a study file is not acceptable, or DAGSTER_HOME cannot be used.
    """
    deployment_variables()
    os.environ["PERSONA_PROFILES"] = profile
    return Deployment(load_catalog(Path(os.environ["PERSONA_STUDIES"]), profile))
