"""The write-up of simulated studies: every number bound, every sample stored, the same bytes every time."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from writeup_study import ODD, PLAN, made_once, make_sources, study_named

from persona_assets.reporting.writeup import Sources, WriteUpError, WrittenReport, read_figures, write_clean_result
from persona_assets.reporting.writeup.binding import MARKER, Book, Cell, Grid, Ledger, bindings_start, read_bindings
from persona_assets.reporting.writeup.disagreements import disagreements, sentence
from persona_assets.reporting.writeup.outline import RESULTS, SECTIONS
from persona_assets.reporting.writeup.page import external_references, page
from persona_assets.reporting.writeup.writer import fenced

pytestmark = pytest.mark.xdist_group("writeup")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return made_once("child", tmp_path_factory)


@pytest.fixture(scope="module")
def written(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    return write_clean_result(sources, tmp_path_factory.mktemp("clean_result"))


@pytest.fixture(scope="module")
def text(written: WrittenReport) -> str:
    return written.markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(written: WrittenReport) -> str:
    return written.page.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """What a reader sees: no quotations, no comments."""
    body = re.sub(r"^(```+).*?^\1$", "", text[: bindings_start(text)], flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", body)


def test_every_section_stands_in_its_place(text: str) -> None:
    assert re.findall(r"^## (.*)$", prose(text), flags=re.MULTILINE) == [section.heading for section in SECTIONS]
    assert text.count("**Main takeaways:**") == len(RESULTS)
    assert "easured again" not in prose(text)  # every source was measured once


def test_the_same_sources_give_the_same_bytes(
    sources: Sources, written: WrittenReport, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In another process, under another hash seed, in another directory."""
    (tmp_path / "sources.pkl").write_bytes(pickle.dumps(sources))
    code = (
        "import pickle, sys; from pathlib import Path; from persona_assets.reporting.writeup import write_clean_result\n"
        "here = Path(sys.argv[1]); write_clean_result(pickle.loads((here / 'sources.pkl').read_bytes()), here)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    for file in (written.markdown, written.page):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_every_number_is_followed_by_its_reference(text: str, sources: Sources) -> None:
    """Without what is bound, no digit is left in the sentences that the templates write."""
    book = Book(sources)
    body = re.sub(r"^(```+).*?^\1$", "", text[: bindings_start(text)], flags=re.MULTILINE | re.DOTALL)
    body = "\n".join(line for line in body.split("\n") if not line.startswith(("|", "![", "<!--", "**Figure.**")))
    bound = 0
    for number, cell in read_bindings(text).items():
        if isinstance(cell, Cell):
            said = book.text(cell)
            for variant in (said, said[:1].upper() + said[1:]):
                bound += body.count(f"{variant}<!--{number}-->")
                body = body.replace(f"{variant}<!--{number}-->", "")
    assert bound > 250
    assert not MARKER.search(body)
    names = re.compile(r"`[^`]*`|\bn1[26]\b")
    assert re.findall(r".*\d.*", names.sub("", body)) == []


def test_references_survive_being_written() -> None:
    odd = Cell("regressions", {"predictor": "cosine --> neg", "layer": None, "registered": True}, "estimate", "rho")
    ledger = Ledger()
    assert [ledger.number(odd), ledger.number(Grid([], [{"a": 1}])), ledger.number(odd)] == [1, 2, 1]
    block = ledger.block()
    assert "-->" not in block.removesuffix("-->")
    assert read_bindings(f"text\n\n{block}\n")[1] == odd


def test_broken_references_are_refused() -> None:
    with pytest.raises(WriteUpError, match="does not end with the comment"):
        read_bindings("text")
    with pytest.raises(WriteUpError, match="cannot be read"):
        read_bindings('text\n\n<!-- bindings\n1 {"table":"gates"}\n-->\n')


def test_a_reference_needs_exactly_one_row(sources: Sources) -> None:
    book = Book(sources)
    with pytest.raises(WriteUpError, match=r"table gates has \d+ rows .* exactly one"):
        book.row("gates", {"gate": "A"})
    with pytest.raises(WriteUpError, match="there is no table gate"):
        book.row("gate", {})
    with pytest.raises(WriteUpError, match="table gates has no column layers"):
        book.row("gates", {"layers": 3})


def test_samples_are_stored_completions_word_for_word(text: str, sources: Sources) -> None:
    found = re.findall(r"^(```+)completion (\S+)\n(.*?)\n\1$", text, flags=re.MULTILINE | re.DOTALL)
    stored = sources.completions.by_id([name for _, name, _ in found])
    assert len(found) == 2 * len(RESULTS) + 6
    assert len({name for _, name, _ in found}) == len(found)  # none is shown twice
    for _, name, quoted in found:
        assert quoted == stored[name]["text"]
    assert {stored[name]["hit"] for _, name, _ in found} == {True, False}
    kinds = {tuple(name.split("/")[1:2]) == tuple(name.split("/")[4:5]) for _, name, _ in found}
    assert kinds == {True, False}


@pytest.mark.parametrize("quoted", ODD)
def test_a_quotation_is_never_closed_by_its_own_text(quoted: str) -> None:
    opening, *lines, closing = fenced("a/b", quoted).split("\n")
    assert "\n".join(lines) == quoted
    assert opening == f"{closing}completion a/b"
    assert closing not in quoted


def test_disagreements_come_from_the_numbers(sources: Sources, text: str) -> None:
    plan = sources.study.analysis
    tests = sources.tables["drift_tests"]
    assert set(tests.filter(statistic="wilcoxon")["verdict"]) == {"drift"}
    [found] = [each for each in disagreements(sources.tables, plan) if each.section == "drift"]
    said = sentence(
        {"registered_reading": found.registered, "version": found.version, "sensitivity_reading": found.sensitivity}, ""
    )
    assert said in prose(text)
    assert said.startswith("Preregistered and sensitivity analyses disagree: the preregistered sign test found no drift; ")
    alike = tests.with_columns(verdict=pl.lit("no_drift"))
    assert not [e for e in disagreements({**sources.tables, "drift_tests": alike}, plan) if e.section == "drift"]


@pytest.mark.slow
def test_a_study_without_parent_says_so(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = made_once("first", tmp_path_factory)
    written = prose(write_clean_result(first, tmp_path).markdown.read_text(encoding="utf-8"))
    for section in RESULTS:
        if section.needs_parent:
            own = written[written.index(f"## {section.heading}\n") :].split("\n## ")[0]
            assert own.strip().endswith(
                "has no parent study, so there is nothing to compare with, and this section has no result."
            )
    assert "it has no parent" in written
    assert "Two training seeds" in written
    assert "| 3 | spearman over seeds |" in written


@pytest.mark.slow
def test_a_study_without_a_hit_claims_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    silent = made_once("silent", tmp_path_factory)
    report = write_clean_result(silent, tmp_path)
    written = prose(report.markdown.read_text(encoding="utf-8"))
    assert report.headline.startswith("Indeterminate: no correlation")
    assert "not estimable (constant y)" in written
    assert "No adapter emitted the marker in any completion under its own persona." in written
    assert "nothing here speaks for or against the claim" in written
    assert "significant" not in written[written.index("### Results") : written.index("## Setup")]
    assert "no drops, twelve ties and no increases" in written


@pytest.mark.slow
def test_a_comparison_across_engines_is_confounded_everywhere(tmp_path: Path) -> None:
    confounded = make_sources(tmp_path, "n24", parent_engine="vllm", questions=4)
    (tmp_path / "clean_result").mkdir()
    written = prose(write_clean_result(confounded, tmp_path / "clean_result").markdown.read_text(encoding="utf-8"))
    drift = written[written.index("## Result: drift") :].split("\n## ")[0]
    assert "neither drift nor its absence can be read from it" in drift
    assert "did not fire" not in drift
    panels = written[written.index("## Result: attenuation") :].split("\n## ")[0]
    assert "not estimable (confounded: n12 and n24 differ in conditions of measurement" in panels
    assert "share has at least" not in panels
    assert written.count("confounded") > 3


def test_what_is_missing_stops_the_write_up(sources: Sources, tmp_path: Path) -> None:
    tables = {name: frame for name, frame in sources.tables.items() if name != "gates"}
    with pytest.raises(WriteUpError, match="lacks the tables gates"):
        replace(sources, tables=tables)
    figures = {name: figure for name, figure in sources.figures.items() if name != "power"}
    with pytest.raises(WriteUpError, match="The figure power was not drawn"):
        write_clean_result(replace(sources, figures=figures), tmp_path)
    (tmp_path / "odd.meta.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WriteUpError, match=r"odd\.meta\.json does not describe a figure"):
        read_figures(tmp_path)


def test_tables_that_contradict_each_other_stop_the_write_up(sources: Sources, tmp_path: Path) -> None:
    tests = sources.tables["drift_tests"].with_columns(estimate=pl.lit(0.75))
    with pytest.raises(WriteUpError, match="inherited_drift has 2 drops, drift_tests 9 of 12"):
        write_clean_result(replace(sources, tables={**sources.tables, "drift_tests": tests}), tmp_path)


class _Reader(HTMLParser):
    """Collects elements, and checks that they are closed in order."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def count(self, tag: str, name: str = "", value: str = "") -> int:
        return sum(seen == tag and (not name or value in (attrs.get(name) or "").split()) for seen, attrs in self.seen)


def test_the_page_is_whole_and_needs_nothing_from_outside(html: str, sources: Sources) -> None:
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    assert list(external_references(html)) == []
    assert "default-src 'none'" in html
    figures = sum(len(section.figure_names(sources.study)) for section in SECTIONS)
    scored = [name for name in sources.figures if name.startswith(("continuous_vs_cosine_layer", "rate_vs_log_prob"))]
    assert len(scored) == len(sources.study.analysis.primary_layers) + 1
    figures += len(scored)
    assert reader.count("img") == figures == html.count("data:image/png;base64,")
    assert reader.count("rect", "class", "cell") == len(sources.study.panel) ** 2
    assert reader.count("figure", "class", "sample") == 2 * len(RESULTS) + 6
    assert reader.count("table", "class", "sortable") > 15
    assert reader.count("data") > 200
    assert "<!--" not in html
    assert "<script>alert" not in html  # a completion says so, and it is shown, not run
    assert "&lt;script&gt;alert" in html
    identifiers = [attrs["id"] for _, attrs in reader.seen if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for tag, attrs in reader.seen:
        if tag == "a":
            assert (attrs["href"] or "").removeprefix("#") in identifiers


def test_a_number_of_the_page_says_which_cell_it_is(html: str, sources: Sources) -> None:
    mean = f"{Book(sources).row('highlights', {'quantity': 'mean_source_rate'})['value']:.2f}"
    title = "highlights.value (quantity mean_source_rate)"
    assert f'<data class="short" value="{mean}" title="{title}">{mean}</data>' in html


def test_the_heat_map_holds_rate_interval_and_counts_of_every_cell(html: str, sources: Sources) -> None:
    said = re.findall(
        r"<title>adapter (\w+), under (\w+): [\w ]+\nrate (\S+) \(Wilson (\S+) to (\S+)\), (\d+) of (\d+)</title>", html
    )
    found = {(source, persona): numbers for source, persona, *numbers in said}
    cells = sources.tables["cells"].to_dicts()
    assert len(found) == len(cells)
    for row in cells:
        wanted = [f"{row[name]:.2f}" for name in ("rate", "wilson_low", "wilson_high")] + [str(row["hits"]), str(row["n"])]
        assert found[row["source"], row["eval_persona"]] == wanted


@pytest.mark.slow
def test_the_heat_map_of_several_seeds_names_each(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    first = made_once("first", tmp_path_factory)
    html = write_clean_result(first, tmp_path).page.read_text(encoding="utf-8")
    assert (
        len(re.findall(r"\nseed 42: rate \S+ \(Wilson \S+ to \S+\), \d+ of 100\nseed 43: rate ", html))
        == len(first.study.panel) ** 2
    )


@pytest.mark.parametrize(
    "outside",
    [
        '<img src="https://example.org/a.png">',
        '<a href="https://example.org">x</a>',
        '<link rel="stylesheet" href="a.css">',
        '<script src="a.js"></script>',
        "<style>@import 'a.css';</style>",
        "<style>p { background: url(a.png) }</style>",
        '<p style="background: url(a.png)">x</p>',
        "<iframe></iframe>",
        '<svg><use xlink:href="a.svg#x"/></svg>',
    ],
)
def test_a_reference_to_the_outside_is_seen(outside: str) -> None:
    assert list(external_references(f"<body>{outside}</body>"))
    assert not list(external_references('<a href="#x">x</a><img src="data:image/png;base64,AA"><style>p { color: red }</style>'))


@pytest.mark.parametrize("added", ["\n\n<div>mine</div>\n\n", " with <b>mine</b>. "])
def test_html_of_its_own_does_not_get_into_the_page(added: str, text: str, sources: Sources) -> None:
    with pytest.raises(WriteUpError, match="holds HTML of its own"):
        page(text.replace("The data version of", f"{added}The data version of"), sources, Book(sources))


@pytest.mark.slow
def test_one_primary_layer_is_enough(tmp_path: Path) -> None:
    """A plan may register a single layer, and a panel may be small."""
    plan = PLAN.model_copy(update={"primary_layers": (4,)})
    study = study_named("n12", plan=plan)
    small = replace(study, name="n11", panel=study.panel.prefix(11))
    report = write_clean_result(make_sources(tmp_path, "n11", study=small, questions=4), tmp_path)
    written = prose(report.markdown.read_text(encoding="utf-8"))
    assert "; layer 4 was registered as primary." in written
    assert "One primary layer and six layers in the scan" in written
