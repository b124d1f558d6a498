"""The throughput table is written, read back, and refused where it is not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.capacity.table import Measured, ThroughputTable, read_table
from persona_assets.errors import ConfigurationError


def test_it_is_read_as_it_was_written_and_finds_the_fastest(table: ThroughputTable, tmp_path: Path) -> None:
    table.write(tmp_path / "new" / "table.json")
    assert read_table(tmp_path / "new" / "table.json") == table
    found = table.find("generation", "transformers", "merged")
    assert found is not None
    assert (found.value, found.share) == (8000.0, 0.16)
    assert table.find("generation", "transformers", None) is None


@pytest.mark.parametrize(("batch", "speed"), [(10, 5_000.0), (300, 5_000.0), (900, 8_000.0), (None, 8_000.0)])
def test_it_finds_the_batch_that_is_nearest(table: ThroughputTable, batch: int | None, speed: float) -> None:
    found = table.find("generation", "transformers", "merged", batch)
    assert found is not None
    assert found.value == speed


def test_a_missing_or_broken_table_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json: cannot be read .*benchmarks/throughput\.py"):
        read_table(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"made_on": 3}', encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"broken\.json: is not a throughput table: .* Measure it again"):
        read_table(tmp_path / "broken.json")


def test_a_speed_of_zero_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Measured(stage="training", engine="trainer", value=0.0, unit="tokens/s", repeats=(0.0,), settings={})
