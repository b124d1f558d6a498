"""The code location: what the enabled profiles and their studies need, put together."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from dagster import DagsterError, Definitions, in_process_executor

from persona_assets.assets.building import profile_definitions
from persona_assets.catalog import Catalog, load_catalog
from persona_assets.errors import ConfigurationError
from resources.adapter_registry import AdapterRegistry
from resources.lake import REPOSITORY, Lake
from resources.model_runtime import ModelRuntime
from resources.notifier import Notifier
from resources.publishing import Publishing
from resources.tracker import Tracker
from resources.warehouse import Warehouse
from sensors.building import profile_automation

# Dagster says at every use which of its parameters it calls beta; the tests cover what is used of them.
warnings.filterwarnings("ignore", message=".*is currently in beta")

STUDIES = Path(os.environ.get("PERSONA_STUDIES") or REPOSITORY / "studies")
PROFILES = (os.environ.get("PERSONA_PROFILES") or "embedded").replace(",", " ").split()

_lake = Lake()


class StudyFileError(ConfigurationError, DagsterError):
    """A file under studies/ is not acceptable. Being one of Dagster's own errors, it is what the UI shows first."""


def _catalogs() -> list[Catalog]:
    try:
        return [load_catalog(STUDIES, profile) for profile in PROFILES]
    except ConfigurationError as error:
        raise StudyFileError(f"{error}\nCorrect the file, then reload the code location.") from None


defs = Definitions.merge(
    *(build(catalog) for catalog in _catalogs() for build in (profile_definitions, profile_automation)),
    Definitions(
        # One process a run: the base model is loaded once, and worker processes are shared by its steps.
        executor=in_process_executor,
        resources={
            "lake": _lake,
            "warehouse": Warehouse(lake=_lake),
            "model_runtime": ModelRuntime(),
            "publishing": Publishing(),
            "notifier": Notifier(),
            "tracker": Tracker(),
            "adapter_registry": AdapterRegistry(),
        },
    ),
)
