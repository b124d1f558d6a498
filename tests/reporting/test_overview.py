"""The overview page: the study's own numbers, one file, links into the lake and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from writeup_study import made_once

from persona_assets.reporting.writeup import Sources
from persona_assets.reporting.writeup.overview import WrittenOverview, write_overview
from persona_assets.reporting.writeup.page import external_references

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("writeup")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return made_once("child", tmp_path_factory)


@pytest.fixture(scope="module")
def written(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> WrittenOverview:
    return write_overview(sources, tmp_path_factory.mktemp("overview"))


def words(page: Path) -> str:
    html = re.sub(r"<(style|script).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_it_says_where_the_study_stands(written: WrittenOverview, sources: Sources) -> None:
    outcome = sources.tables["outcome"].row(0, named=True)
    gates = sources.tables["gates"].filter("registered")
    text = words(written.page)
    assert "The question was whether characters that resemble the ordinary helpful assistant take the tag up less easily." in text
    assert f"Bucket: {outcome['bucket']} . Confidence: {outcome['confidence']}" in text
    assert outcome["reasons"].split(";")[0] in text
    assert text.count(" yes ") + text.count(" no ") >= gates.height
    for row in sources.tables["source_rates"].to_dicts():
        category = row["category"].replace("_", " ")
        assert f"{row['persona']} {category} {row['cohort']} {row['hits']} {row['n']} {row['rate']:.2f}" in text
    assert "Drift of inherited sources since n12" in text


def test_it_links_to_the_lake_and_to_nothing_else(written: WrittenOverview) -> None:
    found = list(external_references(written.page.read_text(encoding="utf-8")))
    assert found == ["a href=../clean_result/report.html", "a href=../figures/", "a href=../tables/"]


def test_the_same_sources_give_the_same_bytes(written: WrittenOverview, sources: Sources, tmp_path: Path) -> None:
    assert write_overview(sources, tmp_path).page.read_bytes() == written.page.read_bytes()


def test_a_study_without_a_parent_says_so(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    text = words(write_overview(made_once("first", tmp_path_factory), tmp_path).page)
    assert "Nothing was inherited" in text
    assert "Drift of inherited sources since" not in text
