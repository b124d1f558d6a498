"""The code location: what the enabled profiles and their studies need, put together."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from dagster import Definitions, in_process_executor

from persona_assets.assets.building import profile_definitions
from persona_assets.study import load_catalog
from resources.lake import REPOSITORY, Lake
from resources.model_runtime import ModelRuntime
from resources.warehouse import Warehouse

# Dagster says at every use which of its parameters it calls beta; the tests cover what is used of them.
warnings.filterwarnings("ignore", message=".*is currently in beta")

STUDIES = Path(os.environ.get("PERSONA_STUDIES") or REPOSITORY / "studies")
PROFILES = (os.environ.get("PERSONA_PROFILES") or "embedded").replace(",", " ").split()

_lake = Lake()

defs = Definitions.merge(
    *(profile_definitions(load_catalog(STUDIES, profile)) for profile in PROFILES),
    Definitions(
        # One process a run: the base model is loaded once, and worker processes are shared by its steps.
        executor=in_process_executor,
        resources={
            "lake": _lake,
            "warehouse": Warehouse(lake=_lake),
            "model_runtime": ModelRuntime(),
        },
    ),
)
