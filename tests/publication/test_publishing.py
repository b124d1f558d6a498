"""Pushing to a directory: resumed, repeated with bounded waits, verified by downloading, and clear about how it ended."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from small_bundles import Flaky, adapter_files, small_bundles

from persona_assets.errors import ConfigurationError
from persona_assets.publication.bundles import Bundle
from persona_assets.publication.destinations import open_destination
from persona_assets.publication.errors import PublicationError
from persona_assets.publication.file_destination import FileDestination
from persona_assets.publication.publishing import WAITS, Published, publish
from persona_assets.publication.record import record, recorded_bundles
from persona_assets.publication.verification import verify
from persona_assets.registry.base import RegistryError, RegistryUnavailableError

AWAY = RegistryUnavailableError("the registry is away.")


@pytest.fixture
def bundles(tmp_path: Path) -> list[Bundle]:
    return small_bundles(tmp_path)


@pytest.fixture(params=["directory", "URL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "registry") if request.param == "directory" else f"memory://{tmp_path.name}"


def faults(published: list[Published], place: str) -> list[str]:
    """What the verification finds, from the record as it is read back."""
    bundles = recorded_bundles(record(published))
    return [fault for _, found in verify(bundles, FileDestination(place).registry) for fault in found]


def published_file(place: Path, name: str) -> Path:
    (found,) = place.rglob(name)
    return found


def test_what_was_pushed_comes_back_and_is_not_sent_again(bundles: list[Bundle], place: str) -> None:
    said: list[str] = []
    first = publish(bundles, FileDestination(place), say=said.append)
    assert [each.sent for each in first] == [True, True]
    assert said == [f"published {each.bundle.name} as {each.reference}" for each in first]
    assert faults(first, place) == []
    second = publish(bundles, FileDestination(place), say=said.append)
    assert [each.sent for each in second] == [False, False]
    assert [each.reference for each in second] == [each.reference for each in first]


def test_only_what_changed_is_sent_and_the_old_version_stays(bundles: list[Bundle], place: str, tmp_path: Path) -> None:
    first = publish(bundles, FileDestination(place), say=print)
    changed = small_bundles(tmp_path / "changed", rate=0.75)
    second = publish(changed, FileDestination(place), say=print)
    assert [each.sent for each in second] == [False, True]
    assert second[0].reference == first[0].reference
    assert second[1].reference != first[1].reference
    assert faults(first, place) == faults(second, place) == []


def test_an_interrupted_push_goes_on_where_it_ended(bundles: list[Bundle], tmp_path: Path) -> None:
    destination = Flaky(FileDestination(str(tmp_path / "registry")), (AWAY, True), (AWAY, False))
    waited: list[float] = []
    said: list[str] = []
    done = publish(bundles, destination, say=said.append, sleep=waited.append)  # type: ignore[arg-type]
    assert [each.sent for each in done] == [True, True]
    assert destination.pushed == [[bundle.name for bundle in bundles], [bundles[1].name], [bundles[1].name]]
    assert waited == list(WAITS[:2])
    assert "the registry is away. Trying again in 2 s." in said


def test_it_gives_up_after_bounded_waits_and_says_what_is_there(bundles: list[Bundle], tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    destination = Flaky(FileDestination(place), (AWAY, True), *[(AWAY, False)] * 10)
    waited: list[float] = []
    with pytest.raises(PublicationError) as caught:
        publish(bundles, destination, say=print, sleep=waited.append)  # type: ignore[arg-type]
    assert waited == list(WAITS)
    assert str(caught.value) == (
        "1 of 2 bundles are published, embedded/n12/tables not: gave up after 4 attempts. the registry is away. "
        "Run it again when that is settled: what is there is not sent again."
    )
    later = publish(bundles, FileDestination(place), say=print)
    assert [each.sent for each in later] == [False, True]


def test_a_refusal_is_not_repeated(bundles: list[Bundle], tmp_path: Path) -> None:
    destination = Flaky(FileDestination(str(tmp_path / "registry")), (RegistryError("the key is wrong."), False))
    with pytest.raises(PublicationError, match=r"^0 of 2 bundles are published, .* not: the key is wrong\. Run it again"):
        publish(bundles, destination, say=print, sleep=pytest.fail)  # type: ignore[arg-type]
    assert len(destination.pushed) == 1


def test_a_folder_without_its_list_of_contents_counts_as_nothing(bundles: list[Bundle], tmp_path: Path) -> None:
    """That is what a push leaves that is killed: the list is written last."""
    place = tmp_path / "registry"
    publish(bundles, FileDestination(str(place)), say=print)
    published_file(place, "contents.json").unlink()
    again = publish(bundles, FileDestination(str(place)), say=print)
    assert [each.sent for each in again] == [False, True]
    assert faults(again, str(place)) == []


def test_a_place_that_cannot_be_written_is_said(bundles: list[Bundle], tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file", encoding="utf-8")
    with pytest.raises(PublicationError, match="0 of 2 bundles are published, .*registry/embedded.* cannot be written"):
        publish(bundles, FileDestination(str(tmp_path / "registry")), say=print, sleep=pytest.fail)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-4] + b"XXXX"), "cells.parquet came back with sha256"),
        (lambda file: file.unlink(), "cells.parquet is not there"),
        (lambda file: (file.parent / "more.parquet").write_bytes(b"x"), "more.parquet is there and was not published"),
        (lambda file: file.write_bytes(b"nonsense"), "cells.parquet came back as something that cannot be read"),
        (lambda file: pl.DataFrame({"rate": ["x"]}).write_parquet(file), "another schema: rate, source"),
    ],
    ids=["corrupted", "missing", "added", "unreadable", "schema"],
)
def test_what_comes_back_different_is_a_fault(bundles: list[Bundle], tmp_path: Path, damage: object, said: str) -> None:
    place = tmp_path / "registry"
    done = publish(bundles, FileDestination(str(place)), say=print)
    damage(published_file(place, "cells.parquet"))  # type: ignore[operator]
    found = faults(done, str(place))
    assert any(said in fault for fault in found), found
    assert all("embedded/n12/tables" in fault for fault in found)


def test_other_weights_under_the_same_name_are_a_fault(bundles: list[Bundle], tmp_path: Path) -> None:
    """Same names, same sizes, same schema: only the bytes say it."""
    place = tmp_path / "registry"
    done = publish(bundles, FileDestination(str(place)), say=print)
    other = adapter_files(tmp_path / "other", value=2.0)["adapter_model.safetensors"]
    target = published_file(place, "adapter_model.safetensors")
    assert target.stat().st_size == other.stat().st_size
    target.write_bytes(other.read_bytes())
    (fault,) = faults(done, str(place))
    assert "adapter_model.safetensors came back with sha256" in fault


def test_the_schema_is_compared_on_its_own(bundles: list[Bundle], tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    done = publish(bundles, FileDestination(place), say=print)
    frame = record(done).with_columns(pl.col("schema").str.replace("Float64", "Int64").str.replace("F32", "F16"))
    found = [fault for _, each in verify(recorded_bundles(frame), FileDestination(place).registry) for fault in each]
    assert len(found) == 2
    assert "cells.parquet came back with another schema: rate." in found[1]


@pytest.mark.parametrize(
    "text", ["", "s3://bucket", "file:relative", "wandb:team", "wandb:team/project/name", "hf:org", "hf:a/b@c"]
)
def test_a_destination_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Cannot publish to .*: expected file:/ABSOLUTE/PATH"):
        open_destination(text)
