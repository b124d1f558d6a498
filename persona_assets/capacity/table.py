"""The throughput table: what a benchmark measured on a device, as a JSON file that the estimate reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from persona_assets.errors import ConfigurationError
from persona_assets.yaml_files import FileModel

Stage = Literal["training", "generation", "centroids", "merging", "loading"]


class Measured(FileModel):
    """One speed: the median of some repeats, and the most that the device could give.

    Attributes:
        stage: what was done.
        engine: with what (`trainer`, `transformers`, `vllm`).
        weights: `merged` or `swapped` for generation with an adapter, None where it makes no difference.
        value: median, in `unit`.
        unit: tokens/s (training: all tokens of the rows; generation: drawn tokens; centroids: prompt tokens), or bytes/s.
        roofline: what the device's measured bandwidth and matmul rate allow at most, in the same unit; None if neither bounds it.
        repeats: every repeat.
        peak_bytes: most device memory in use.
        settings: what it was measured with.
    """

    stage: Stage
    engine: str
    weights: Literal["merged", "swapped"] | None = None
    value: float = Field(gt=0)
    unit: Literal["tokens/s", "bytes/s"]
    roofline: float | None = Field(default=None, gt=0)
    repeats: tuple[float, ...]
    peak_bytes: int | None = None
    settings: dict[str, float | int | str | bool]

    @property
    def share(self) -> float | None:
        """Share of the roofline."""
        return None if self.roofline is None else self.value / self.roofline


class NotMeasured(FileModel):
    """A speed that is missing, and why."""

    stage: Stage
    engine: str
    weights: Literal["merged", "swapped"] | None = None
    why: str


class ThroughputTable(FileModel):
    """Everything one run of the benchmark measured on one device."""

    made_on: str
    command: str
    device: str
    device_bytes: int
    driver: str
    versions: dict[str, str]
    shape: dict[str, int | bool]
    dtype: str
    bandwidth: float = Field(gt=0, description="bytes/s of a large copy on the device, read and written")
    matmul_rate: float = Field(gt=0, description="operations/s of a large matrix product in dtype")
    checks: dict[str, str]
    measured: tuple[Measured, ...]
    not_measured: tuple[NotMeasured, ...]

    def find(self, stage: Stage, engine: str, weights: str | None = None, batch: int | None = None) -> Measured | None:
        """Return the measurement of a kind whose batch is nearest to a size, of equal ones the fastest.

        Args:
            stage: what is done.
            engine: with what.
            weights: `merged`, `swapped` or None.
            batch: rows at a time; None takes the fastest.
        """
        fitting = [row for row in self.measured if (row.stage, row.engine, row.weights) == (stage, engine, weights)]

        def distance(row: Measured) -> float:
            size = row.settings.get("batch", row.settings.get("micro_batch_size"))
            return 0.0 if batch is None or not isinstance(size, int) else abs(math.log(size / batch))

        return min(fitting, key=lambda row: (distance(row), -row.value), default=None)

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_table(path: Path) -> ThroughputTable:
    """Read a table.

    Raises:
        ConfigurationError: there is no such file, or it is not a throughput table.
    """
    try:
        return ThroughputTable.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}). `python benchmarks/throughput.py --out FILE` writes one."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{path}: is not a throughput table: {where}: {first['msg']}. Measure it again.") from error
