"""The lake: the only place that knows where each product lies."""

from __future__ import annotations

import os
from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from persona_assets.errors import ConfigurationError
from persona_assets.store import Store

LAKE_VARIABLE = "PERSONA_LAKE"
REPOSITORY = Path(__file__).resolve().parent.parent


def default_lake_root() -> str:
    """Return the lake's root: `PERSONA_LAKE`, or `data_lake/` of this repository."""
    return os.environ.get(LAKE_VARIABLE) or str(REPOSITORY / "data_lake")


class Lake(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """A directory of products: Parquet for rows, safetensors for tensors, JSON for manifests."""

    root: str = Field(default_factory=default_lake_root, description="directory of the lake; PERSONA_LAKE sets the default")

    @property
    def store(self) -> Store:
        """The products under the root.

        Raises:
            ConfigurationError: the root is a URL; only local directories can be written so far.
        """
        if "://" in self.root:
            raise ConfigurationError(
                f"The lake's root {self.root!r} is a URL. Only a local (or mounted) directory is supported so far: "
                f"set {LAKE_VARIABLE} to a directory."
            )
        return Store(Path(self.root))

    @staticmethod
    def base_model(profile: str) -> str:
        """Path of the base model."""
        return f"{profile}/base_model"

    @staticmethod
    def engine_parity(profile: str) -> str:
        """Path of the comparison of engines."""
        return f"{profile}/engine_parity"

    @staticmethod
    def by_persona(profile: str, asset: str, persona: str) -> str:
        """Path of one persona's product of an asset that has no training seed."""
        return f"{profile}/{asset}/persona={persona}"

    @staticmethod
    def by_seed(profile: str, asset: str, seed: int, persona: str) -> str:
        """Path of one persona's product of an asset that exists once per training seed."""
        return f"{profile}/{asset}/seed={seed}/persona={persona}"

    @staticmethod
    def measurements(profile: str, study: str, seed: int, source: str) -> str:
        """Directory that holds the measurements of one source's row of cells."""
        return f"{profile}/{study}/eval_cells/source={source}/seed={seed}"

    @classmethod
    def measurement(cls, profile: str, study: str, seed: int, source: str, number: int) -> str:
        """Path of one measurement, numbered from 1."""
        return f"{cls.measurements(profile, study, seed, source)}/measurement={number}"

    @staticmethod
    def marker_scores(profile: str, study: str, seed: int, source: str, number: int) -> str:
        """Path of the scores of one measurement's completions."""
        return f"{profile}/{study}/marker_scores/source={source}/seed={seed}/measurement={number}"

    def measurement_numbers(self, profile: str, study: str, seed: int, source: str) -> tuple[int, ...]:
        """Return the numbers of the measurements in the lake, ascending."""
        directory = self.store.directory(self.measurements(profile, study, seed, source))
        files = directory.glob("measurement=*/manifest.json")
        return tuple(sorted(int(path.parent.name.removeprefix("measurement=")) for path in files))

    def latest_measurement(self, profile: str, study: str, seed: int, source: str) -> int:
        """Return the number of the latest measurement in the lake, 0 when there is none."""
        return max(self.measurement_numbers(profile, study, seed, source), default=0)

    @staticmethod
    def imported(profile: str, study: str) -> str:
        """Path of what was imported of an earlier study."""
        return f"{profile}/{study}/imported"

    @staticmethod
    def tables(profile: str, study: str, asset: str) -> str:
        """Path of the tables that one asset of a study writes."""
        return f"{profile}/{study}/tables/{asset}"

    @staticmethod
    def figures(profile: str, study: str) -> str:
        """Path of a study's figures."""
        return f"{profile}/{study}/figures"

    @staticmethod
    def clean_result(profile: str, study: str) -> str:
        """Path of a study's write-up."""
        return f"{profile}/{study}/clean_result"

    @staticmethod
    def overview(profile: str, study: str) -> str:
        """Path of a study's overview."""
        return f"{profile}/{study}/overview"

    @staticmethod
    def publication(profile: str, study: str) -> str:
        """Path of the record of what of a study was published."""
        return f"{profile}/{study}/publication"

    @staticmethod
    def warehouse(profile: str) -> str:
        """Path of the product that holds a profile's warehouse.duckdb."""
        return f"{profile}/warehouse"
