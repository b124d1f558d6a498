"""The page in a real browser: tables sort, the heat map answers the pointer, nothing is fetched, nothing overflows."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browsers import FLAGS, browser, needs_browser
from writeup_study import made_once, make_sources

from persona_assets.reporting.writeup import Sources, write_clean_result

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("writeup"), needs_browser]
TIP = re.compile(r"adapter (\w+), under (\w+): [\w ]+\nrate (\S+) \(Wilson (\S+) to (\S+)\), (\d+) of (\d+)")
WATCH = """<script>
window.faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("securitypolicyviolation", (event) => faults.push(event.violatedDirective + " " + event.blockedURI));
</script>"""


@pytest.fixture(scope="module", params=["child", "n48"])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    if request.param == "child":
        return made_once("child", tmp_path_factory)
    return make_sources(tmp_path_factory.mktemp("n48"), "n48", questions=2)


@pytest.fixture(scope="module")
def page(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean_result(sources, tmp_path_factory.mktemp("clean_result")).page


def in_browser(page: Path, script: str, directory: Path, width: int = 1280, height: int = 900) -> Any:
    """Open a copy of the page, run a script that gives `found`, and return what it found."""
    content = page.read_text(encoding="utf-8").replace("<style>", f"{WATCH}<style>", 1)
    report = f"<script>(() => {{ {script}\ndocument.title = JSON.stringify({{ found, faults }}); }})();</script></body>"
    copy = directory / "page.html"
    copy.write_text(content.replace("</body>", report), encoding="utf-8")
    done = subprocess.run(
        [
            browser(),
            "--headless",
            *FLAGS,
            f"--user-data-dir={directory / 'browser'}",
            f"--window-size={width},{height}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert done.returncode == 0 and title, done.stderr[-2000:]
    result = json.loads(html.unescape(title[1]))
    assert result["faults"] == []
    return result["found"]


def test_a_cell_of_the_heat_map_says_rate_and_interval_under_the_pointer(page: Path, sources: Sources, tmp_path: Path) -> None:
    script = """
    const cell = document.querySelectorAll(".heatmap .cell")[20];
    const tip = document.getElementById("tip");
    const before = tip.hidden;
    cell.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    const box = tip.getBoundingClientRect();
    const there = { text: tip.textContent, shown: !tip.hidden && box.width > 50 && getComputedStyle(tip).display !== "none",
      inside: box.left >= 0 && box.right <= innerWidth, names: document.querySelectorAll(".heatmap text.here").length };
    document.querySelector(".heatmap svg").dispatchEvent(new PointerEvent("pointerleave"));
    const found = { before, ...there, after: tip.hidden, titles: document.querySelectorAll(".cell title").length };
    """
    found = in_browser(page, script, tmp_path)
    said = re.fullmatch(
        r"adapter (\w+), under (\w+): [\w ]+\nrate (\S+) \(Wilson (\S+) to (\S+)\), (\d+) of (\d+)", found["text"]
    )
    assert said
    source, persona, *numbers = said.groups()
    row = sources.tables["cells"].filter(source=source, eval_persona=persona).row(0, named=True)
    assert numbers == [*(f"{row[name]:.2f}" for name in ("rate", "wilson_low", "wilson_high")), str(row["hits"]), str(row["n"])]
    assert found["before"] and found["shown"] and found["inside"] and found["after"]
    assert found["names"] == 2
    assert found["titles"] == 0  # the browser's own tooltip would lie over ours


def test_arrow_keys_walk_through_the_heat_map(page: Path, tmp_path: Path) -> None:
    script = """
    const svg = document.querySelector(".heatmap svg");
    const found = [];
    for (const key of ["ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"]) {
      svg.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const here = svg.querySelector(".cell.here");
      found.push([Number(here.dataset.row), Number(here.dataset.column)]);
    }
    """
    assert in_browser(page, script, tmp_path) == [[0, 0], [0, 1], [1, 1], [1, 0], [1, 0]]


def test_tables_sort_by_a_click_on_their_headings(page: Path, sources: Sources, tmp_path: Path) -> None:
    script = """
    const table = [...document.querySelectorAll("table.sortable")].find((each) => each.tHead.textContent.includes("Wilson"));
    const column = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
    const values = (name) => [...table.tBodies[0].rows].map((row) => row.cells[column(name)].textContent);
    const click = (name) => table.tHead.rows[0].cells[column(name)].querySelector("button").click();
    const found = {};
    found.first = values("Persona");
    click("Rate"); found.up = values("Rate"); found.upSaid = table.tHead.rows[0].cells[column("Rate")].getAttribute("aria-sort");
    click("Rate"); found.down = values("Rate");
    click("Persona"); found.names = values("Persona");
    found.sorted = table.tHead.querySelectorAll("[aria-sort]").length;
    """
    found = in_browser(page, script, tmp_path)
    rates = [f"{rate:.2f}" for rate in sorted(sources.tables["source_rates"]["rate"].to_list())]
    assert found["first"] == list(sources.study.panel.ids)
    assert found["up"] == rates
    assert found["upSaid"] == "ascending"
    assert found["down"] == rates[::-1]
    assert found["names"] == sorted(found["names"]) != found["first"]
    assert found["sorted"] == 1


def test_what_is_missing_sorts_last_both_ways(page: Path, tmp_path: Path) -> None:
    script = """
    const tables = [...document.querySelectorAll("table.sortable")];
    const table = tables.find((each) => each.textContent.includes("mean delta"));
    const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "p");
    const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
    const button = table.tHead.rows[0].cells[column].querySelector("button");
    button.click(); const up = values();
    button.click(); const found = [up, values()];
    """
    up, down = in_browser(page, script, tmp_path)
    assert up[-1] == down[-1] == "–"
    assert up[:-1] == down[:-1][::-1]
    assert [text.replace("< ", "") for text in up[:-1]] == sorted(text.replace("< ", "") for text in up[:-1])


@pytest.mark.parametrize("width", [1400, 900, 500])
def test_nothing_overflows_and_every_picture_is_there(page: Path, tmp_path: Path, width: int) -> None:
    script = """
    const pictures = [...document.querySelectorAll("img")];
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const found = { overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      pictures: pictures.length, loaded: pictures.filter((each) => each.complete && each.naturalWidth > 0).length,
      wide: pictures.filter((each) => each.getBoundingClientRect().width > innerWidth).length,
      fetched: performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length };
    """
    found = in_browser(page, script, tmp_path, width=width)
    assert found["overflow"] <= 0
    assert found["pictures"] == found["loaded"] > 10
    assert found["wide"] == found["fetched"] == 0
