"""What is known of an imported study's measurement: recorded, stated, or unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_assets.ancestor.identity import CONDITIONS, build_identity, read_statements
from persona_assets.ancestor.reading import AncestorError

HERE = {"engine": "transformers", "engine_version": "5.19.0", "top_k": 0, "device": None, "temperature": 1.0}


def test_the_page_names_every_condition_that_can_be_stated() -> None:
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text(encoding="utf-8")
    assert [name for name in CONDITIONS if f"`{name}`" not in page] == []


def test_nothing_stated_is_unknown() -> None:
    identity, stated = build_identity({"temperature": 1.0}, {}, dict)
    assert set(identity) == set(CONDITIONS)
    assert {name for name, value in identity.items() if value is not None} == {"temperature"}
    assert stated == ()


def test_statements_have_the_type_of_the_condition() -> None:
    identity, stated = build_identity({}, read_statements(["engine=vllm", "top_k=50", "top_p=0.95"]), dict)
    assert (identity["engine"], identity["top_k"], identity["top_p"]) == ("vllm", 50, 0.95)
    assert stated == ("engine", "top_p", "top_k")


def test_here_takes_this_profiles_conditions() -> None:
    identity, stated = build_identity({}, read_statements(["engine=here", "top_k=here"]), lambda: HERE)
    assert (identity["engine"], identity["top_k"]) == ("transformers", 0)
    assert stated == ("engine", "top_k")


def test_all_here_fills_what_is_neither_recorded_nor_stated() -> None:
    own = {**dict.fromkeys(CONDITIONS, "1"), "engine": "transformers"}
    identity, stated = build_identity({"temperature": 0.7}, read_statements(["all=here", "engine=vllm"]), lambda: own)
    assert (identity["temperature"], identity["engine"], identity["top_k"]) == (0.7, "vllm", 1)
    assert set(stated) == set(CONDITIONS) - {"temperature"}


def test_here_of_what_is_not_known_here_is_refused() -> None:
    with pytest.raises(AncestorError, match="--state device=here: how this profile measures is not known"):
        build_identity({}, {"device": "here"}, lambda: HERE)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["engine"], "give name=value"),
        (["engine="], "give name=value"),
        (["motor=vllm"], "the name being one of engine, engine_version"),
        (["all=vllm"], "the only value that all can have is 'here'"),
        (["engine=vllm", "engine=transformers"], "stated as 'vllm' and as 'transformers'"),
    ],
)
def test_statements_that_are_refused(statements: list[str], said: str) -> None:
    with pytest.raises(AncestorError, match=said):
        read_statements(statements)


def test_a_statement_may_not_contradict_the_files() -> None:
    with pytest.raises(AncestorError, match=r"--state temperature: you say 0.7, the files record 1.0"):
        build_identity({"temperature": 1.0}, {"temperature": "0.7"}, dict)
    with pytest.raises(AncestorError, match="--state top_k: 'many' is not a number"):
        build_identity({}, {"top_k": "many"}, dict)
