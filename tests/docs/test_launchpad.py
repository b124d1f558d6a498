"""The launchpad's fields: each is described where one fills it in, has a default, and stands in docs/commands.md."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from dagster import ConfigurableResource
from pydantic.fields import FieldInfo

from definitions import defs
from persona_assets.assets.adapters import AdapterConfig
from persona_assets.assets.cells import EvalCellsConfig
from persona_assets.study import Runtime
from resources.lake import REPOSITORY
from resources.model_runtime import Device


def fields() -> dict[str, FieldInfo]:
    """Every field by the place at which it is filled in."""
    found = {
        f"ops.<{asset}>.config.{name}": field
        for asset, config in (("eval_cells", EvalCellsConfig), ("adapter", AdapterConfig))
        for name, field in config.model_fields.items()
    }
    for resource, made in (defs.resources or {}).items():
        assert isinstance(made, ConfigurableResource)
        values = dict(made)
        found |= {
            f"resources.{resource}.config.{name}": field
            for name, field in type(made).model_fields.items()
            if not isinstance(values[name], ConfigurableResource)
        }
    return found


@pytest.mark.parametrize(("place", "field"), fields().items())
def test_a_field_has_a_description_and_a_default(place: str, field: FieldInfo) -> None:
    assert field.description and len(field.description) > 20, place
    assert not field.is_required(), place


def test_the_devices_are_those_of_a_profile() -> None:
    assert [device.value for device in Device] == list(get_args(Runtime.model_fields["device"].annotation))


def test_the_page_names_every_field() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `((?:ops|resources)\.[^`]+)` \|", page, re.MULTILINE)
    assert set(named) == set(fields())
    assert len(named) == len(set(named))
