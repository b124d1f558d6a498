"""The lint: a write-up in order passes; broken in one way, it gets exactly the finding for that."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from writeup_study import made_once

from persona_assets.reporting.lint import Finding, lint
from persona_assets.reporting.lint.figures import caption_layers, drawn_layers
from persona_assets.reporting.writeup import Sources, read_figures, write_clean_result

pytestmark = pytest.mark.xdist_group("writeup")
Change = Callable[[str], str]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return made_once("child", tmp_path_factory)


@pytest.fixture(scope="module")
def text(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("clean_result")
    return write_clean_result(sources, directory).markdown.read_text(encoding="utf-8")


def swap(old: str, new: str, count: int = 1) -> Change:
    """Replace a text that must be there."""

    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, count)

    return change


def pattern(regex: str, new: str | Callable[[re.Match[str]], str]) -> Change:
    """Replace the first match of a pattern that must match."""

    def change(text: str) -> str:
        changed, found = re.subn(regex, new, text, count=1, flags=re.MULTILINE)
        assert found == 1, regex
        return changed

    return change


def in_section(heading: str, change: Change) -> Change:
    """Change one section and nothing else."""

    def apply(text: str) -> str:
        start = text.index(f"## {heading}\n")
        end = text.find("\n## ", start + 1)
        return text[:start] + change(text[start:end]) + text[end:]

    return apply


def human(sentence: str) -> Change:
    """Write a sentence into the section that is the person's."""
    return pattern(r"^## Human TL;DR\n\n.*$", f"## Human TL;DR\n\n{sentence}")


def changed_line(before: str, after: str) -> int:
    """First line that differs."""
    pairs = zip(before.split("\n"), after.split("\n"), strict=False)
    return next(number for number, (old, new) in enumerate(pairs, 1) if old != new)


def remove_section(heading: str) -> Change:
    return pattern(rf"^## {re.escape(heading)}\n(?s:.*?)(?=^## |\n<!-- bindings)", "")


def test_a_write_up_in_order_passes(text: str, sources: Sources) -> None:
    assert lint(text, sources) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first", "silent"])
def test_so_does_one_without_parent_and_one_without_a_single_hit(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = made_once(name, tmp_path_factory)
    assert lint(write_clean_result(other, tmp_path).markdown.read_text(encoding="utf-8"), other) == []


RESULT = "Result: source rate and closeness to the anchor"
DRIFT = "Result: drift of inherited sources"
FIGURE = "source_rate_vs_cosine_layer3"
# On one line each: the rule that fires at the line that was changed, a word of what it says, and the change.
BREAKS: dict[str, tuple[str, str, Change]] = {
    "a digit of a rate": ("number", "mean_source_rate", pattern(r"(mean of 0\.\d)\d(<!--)", r"\g<1>x\2")),
    "a digit more": ("number", "mean_source_rate", pattern(r"(mean of )(0\.\d\d<!--)", r"\g<1>1\2")),
    "a sign": ("number", "regressions.estimate", pattern(r"ρ = −(0\.\d+<!--)", r"ρ = \1")),
    "a p-value": ("number", "regressions.p", pattern(r"p = \.\d\d\d(<!--)", r"p = .999\1")),
    "a cell of a table": (
        "number",
        "source_rates.rate",
        in_section(
            "Result: how often each adapter emits the marker",
            pattern(r"^(\| `librarian` (?:\| [^|]+){4})\| 0\.\d\d \|", r"\1| 0.99 |"),
        ),
    ),
    "a name": ("number", "highlights.persona", pattern(r"\(`\w+`(<!--\d+-->\) to )", r"(`librarian_x`\1")),
    "a count in words": ("count", "says 'two'", pattern(r": two(<!--\d+--> drops)", r": three\1")),
    "a word that only ends like the count": ("count", "says 'one'", pattern(r"\(one(<!--\d+--> training seed)", r"(none\1")),
    "both counts with their references": (
        "count",
        "'ten drops'; the tables have 2",
        in_section(
            DRIFT,
            pattern(
                r"two(<!--\d+-->) drops, no(<!--\d+-->) ties and ten(<!--\d+-->) increases",
                r"ten\3 drops, no\2 ties and two\1 increases",
            ),
        ),
    ),
    "an invented number": ("number", "0.7312", pattern(r"^(The data version of a product is)", r"The share is 0.7312. \1")),
    "an invented percentage": ("number", "33.3 %", pattern(r"^(The data version of a product is)", r"It is 33.3 %. \1")),
    "an invented p-value": ("number", "p = .987", human("It is chance, p = .987.")),
    "a typed number": ("typed", "16 is typed", pattern(r"^(The data version of a product is)", r"There are 16 personas. \1")),
    "a typed count": ("typed", "sixteen personas", pattern(r"^(The data version of a product is)", r"See sixteen personas. \1")),
    "an invented number of the person": ("number", "0.7312", human("In my view it is 0.7312.")),
    "swapped counts of the person": ("count", "ten drops", human("We saw ten drops.")),
    "a count of the person in digits": ("count", "9 ties", human("We saw 9 ties.")),
    "a number of a persona that is not named": ("number", "0.9471", human("At layer 3 its cosine is 0.9471.")),
    "a table typed by hand": ("number", "0.7312", human("| a |\n| --- |\n| 0.7312 |")),
    "the layer of a caption": (
        "caption-layer",
        "names layer 2",
        pattern(r"(helpful_assistant at layer )3(, study)", r"\g<1>2\2"),
    ),
    "the words of a caption": (
        "caption",
        "power",
        swap("Probability that the registered tests", "Certainty that the registered tests"),
    ),
    "a sample": ("sample", "is not the stored", pattern(r"(?<=^```completion )(.*\n)(\w)", r"\1Q\2")),
    "the id of a sample": ("sample", "There is no completion", pattern(r"^(```+completion n16/\w+/s)42", r"\g<1>43")),
    "the title": ("title", "does not claim", pattern(r"^# .*$", "# Closeness to the assistant protects (confidence HIGH)")),
    "the digest of the header": ("digest", "study file now has", pattern(r"study digest [0-9a-f]{8}", "study digest 00000000")),
    "a digest of a product": (
        "digest",
        "artifacts.digest",
        in_section("Artifacts", pattern(r"(\| base model \| [^|]+\| `)[0-9a-f]{6}", r"\g<1>000000")),
    ),
    "a digest of an adapter": (
        "digest",
        "adapter_digest",
        in_section("Artifacts", pattern(r"(\| `villain` \| [^`]+\| `)[0-9a-f]{6}", r"\g<1>000000")),
    ),
    "a digest of nothing": ("digest", "no artifact", human("Made from " + "ab" * 32 + ".")),
    "a reference": ("binding", "not in the file", pattern(r"(cells of 100)<!--\d+-->", r"\1<!--99999-->")),
    "the order of the parts": (
        "section",
        "'Motivation'",
        pattern(
            r"^### Motivation\n(?s:(.*?))### Experiment\n(?s:(.*?))### Results",
            r"### Experiment\n\2### Motivation\n\1### Results",
        ),
    ),
    "a label of sensitivity": ("kinds", "does not say so", pattern(r"^- \*\*Sensitivity\.\*\* Over all", "- Over all")),
    "a wrong label": (
        "kinds",
        "labelled sensitivity",
        in_section(RESULT, swap("- **Preregistered.** At", "- **Sensitivity.** At")),
    ),
    "the title of a table": (
        "kinds",
        "does not say so",
        swap("**Sensitivity: the gates with", "**Preregistered: the gates with"),
    ),
    "one bullet out of two": (
        "kinds",
        "in one block",
        pattern(r"(^- \*\*Preregistered\.\*\* The same.*)\n- \*\*Sensitivity\.\*\*", r"\1"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_in_one_place(name: str, text: str, sources: Sources) -> None:
    rule, said, change = BREAKS[name]
    broken = change(text)
    findings = lint(broken, sources)
    assert len(findings) == (2 if name == "both counts with their references" else 1), findings
    finding = findings[0]
    assert finding.rule == rule
    assert said in finding.what
    assert finding.advice
    # The line that was changed, or the one it belongs to: the marker of a table stands below its title, a quotation begins
    # above its text, and of two parts in the wrong order the second is named.
    assert -1 <= finding.line - changed_line(text, broken) <= 6, finding


def test_swapped_counts_in_words_are_both_found(text: str, sources: Sources) -> None:
    """The write-up that this project automates swapped its drops and increases once."""
    broken = in_section(
        DRIFT, pattern(r"two(<!--\d+-->) drops, (.*?) and ten(<!--\d+-->) increases", r"ten\1 drops, \2 and two\3 increases")
    )(text)
    findings = lint(broken, sources)
    assert [(finding.rule, finding.line) for finding in findings] == [("count", changed_line(text, broken))] * 2
    assert "'ten'" in findings[0].what + findings[1].what
    assert "count drops" in findings[0].what + findings[1].what


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        (remove_section("Caveats"), "section", "'Caveats' is missing"),
        (remove_section("Background"), "section", "'Background' is missing"),
        (remove_section("Result: attenuation over panels"), "section", "'Result: attenuation over panels' is missing"),
        (pattern(r"^### Confidence\n", ""), "section", "no part 'Confidence'"),
        (in_section(RESULT, swap("**Main takeaways:**\n\n", "")), "takeaways", "has no **Main takeaways:**"),
        (in_section(RESULT, pattern(r"(\*\*Main takeaways:\*\*\n)(?s:.*?)\n!\[", r"\1\n![")), "takeaways", "No list follows"),
        (in_section(RESULT, pattern(rf"^!\[{FIGURE}\].*\n\n.*\n", "")), "figure", f"does not show its figure {FIGURE}"),
        (
            in_section(RESULT, pattern(rf"(?<=\n)(!\[{FIGURE}\].*\n)\n.*\n", r"\1")),
            "caption",
            f"No caption follows the figure {FIGURE}",
        ),
        (
            in_section(RESULT, pattern(r"^(```+)completion (?s:.*?)\n\1\n", "")),
            "samples",
            "quotes 1 sample completions; it needs 2",
        ),
        (
            in_section("Artifacts", pattern(r"^<!--grid \d+-->\n\n(\|.*\n)+", "")),
            "digest",
            "lacks the table of digests from artifacts",
        ),
        (pattern(r"^\| `villain` \| character \| inherited \| You.*\n", ""), "table", "other rows or columns"),
        (
            in_section(DRIFT, pattern(r"^- Preregistered and sensitivity analyses disagree.*\n", "")),
            "disagreement",
            "does not say where",
        ),
        (pattern(r"^<!-- clean result of .*\n", ""), "header", "missing"),
        (lambda text: text[: text.index("\n<!-- bindings")], "binding", "cannot be read"),
        (
            in_section("Background", lambda part: f"{part}\n\n![mine](../figures/mine.png)"),
            "figure",
            "is not a figure of this study",
        ),
    ],
)
def test_something_is_missing(change: Change, rule: str, said: str, text: str, sources: Sources) -> None:
    findings = lint(change(text), sources)
    assert [finding.rule for finding in findings] == [rule], findings
    assert said in findings[0].what


def test_sections_in_another_order(text: str, sources: Sources) -> None:
    moved = text[text.index("## Background\n") : text.index("## Methodology\n")]
    broken = text.replace(moved, "").replace("## Sample outputs\n", moved + "## Sample outputs\n")
    [finding] = lint(broken, sources)
    assert finding.rule == "section"
    assert "'Sample outputs' comes after" not in finding.what
    assert finding.line == broken[: broken.index("## Background\n")].count("\n") + 1


def test_a_person_may_write_numbers_of_the_tables(text: str, sources: Sources) -> None:
    row = sources.tables["source_rates"].filter(persona="villain").row(0, named=True)
    regressions = sources.tables["regressions"]
    scan = regressions.filter(family="scan", statistic="spearman", predictor="cosine", layer=3).row(0, named=True)
    naive = sources.tables["off_diagonal"].filter(statistic="spearman_naive", outcome="bystander_rate:all", layer=3)
    assert naive["p"].item() < 0.001
    sentence = (
        f"The villain emits the marker in {100 * row['rate']:.0f} % of its answers; rho at layer 3 is {scan['estimate']:.2f} "
        f"with p = {scan['p']:.3f}, and of pairs p < .001, over 16 personas. There were two drops, no ties and ten increases. "
        "Two-sided, and one of several readings; see n12."
    )
    assert lint(human(sentence)(text), sources) == []


def test_changed_tables_are_seen(text: str, sources: Sources) -> None:
    rates = sources.tables["source_rates"]
    moved = rates.with_columns(truncation_rate=pl.when(persona="villain").then(0.04).otherwise("truncation_rate"))
    findings = lint(text, replace(sources, tables={**sources.tables, "source_rates": moved}))
    assert [finding.rule for finding in findings] == ["number"]
    assert text.split("\n")[findings[0].line - 1].startswith("| `villain` |")


def with_figures(sources: Sources, directory: Path) -> Sources:
    """A copy of the figures that a test may damage."""
    shutil.copytree(next(iter(sources.figures.values())).png.parent, directory)
    return replace(sources, figures=read_figures(directory))


def test_a_figure_that_is_gone_or_another_picture(text: str, sources: Sources, tmp_path: Path) -> None:
    damaged = with_figures(sources, tmp_path / "figures")
    (tmp_path / "figures" / f"{FIGURE}.png").unlink()
    (tmp_path / "figures" / "power.png").write_bytes(damaged.figures["source_rates"].png.read_bytes())
    findings = lint(text, damaged)
    assert [(finding.rule, finding.what.split()[0]) for finding in findings] == [
        ("figure", f"../figures/{FIGURE}.png"),
        ("figure", "../figures/power.png"),
    ]


def test_a_figure_drawn_with_the_wrong_layer_in_its_own_caption(text: str, sources: Sources, tmp_path: Path) -> None:
    """The published figure of the ancestor project: drawn at layer 20, captioned layer 15."""
    damaged = with_figures(sources, tmp_path / "figures")
    meta = tmp_path / "figures" / f"{FIGURE}.meta.json"
    content = json.loads(meta.read_text(encoding="utf-8"))
    content["numbers"]["layer"] = 5
    meta.write_text(json.dumps(content), encoding="utf-8")
    [finding] = lint(text, replace(damaged, figures=read_figures(tmp_path / "figures")))
    assert finding.rule == "caption-layer"
    assert f"names layer 3, but the figure {FIGURE} draws layer 5" in finding.what


def test_every_caption_of_the_study_names_layers_that_are_drawn(sources: Sources) -> None:
    assert caption_layers(sources.figures["spearman_by_layer"].caption) == set(range(6))
    assert caption_layers(sources.figures["attenuation"].caption) == {2, 3}
    assert drawn_layers(sources.figures["attenuation"].numbers) == {2, 3}
    assert caption_layers(sources.figures["power"].caption) == drawn_layers(sources.figures["power"].numbers) == set()


def test_a_finding_says_where_what_and_what_to_do() -> None:
    assert str(Finding(7, "number", "0.1 is wrong.", "Write 0.2.")) == "line 7: number: 0.1 is wrong. Write 0.2."
