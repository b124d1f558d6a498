"""Rules on figures: each is shown, exists, and its caption says which layer is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from persona_assets.reporting.lint.document import Block, Document
from persona_assets.reporting.lint.findings import Finding
from persona_assets.reporting.writeup.binding import CAPTION
from persona_assets.reporting.writeup.numbers import escape
from persona_assets.reporting.writeup.outline import SECTIONS
from persona_assets.reporting.writeup.sources import FigureFile, Sources

_LAYERS = re.compile(r"\blayers? (?P<list>\d+(?:(?:, | and | to )\d+)*)", re.IGNORECASE)
_CAPTION_PREFIX = "**Figure.** "


def check(document: Document, sources: Sources) -> Iterator[Finding]:
    """Yield what is wrong with the figures."""
    yield from _required(document, sources)
    for position, block in enumerate(document.blocks):
        if block.kind in ("paragraph", "item"):
            for line, path in block.images:
                after = document.blocks[position + 1] if position + 1 < len(document.blocks) else None
                yield from _image(line, path, after, sources)


def caption_layers(caption: str) -> set[int]:
    """Layers that a caption names."""
    named: set[int] = set()
    for found in _LAYERS.finditer(caption):
        numbers = [int(number) for number in re.findall(r"\d+", found["list"])]
        named |= set(range(numbers[0], numbers[-1] + 1)) if " to " in found["list"] else set(numbers)
    return named


def drawn_layers(numbers: Any) -> set[int]:
    """Layers that a figure's meta.json says it draws: the figure's own, or those of its rows."""
    if isinstance(numbers, dict):
        if isinstance(numbers.get("layer"), int):
            return {numbers["layer"]}
        return {layer for value in numbers.values() for layer in drawn_layers(value)}
    return {layer for value in numbers for layer in drawn_layers(value)} if isinstance(numbers, list) else set()


def _required(document: Document, sources: Sources) -> Iterator[Finding]:
    lines = {block.text: block.line for block in document.sections()}
    for section in SECTIONS:
        if section.heading not in lines:
            continue
        shown = {PurePosixPath(path).stem for block in document.within(section.heading) for _, path in block.images}
        for name in section.figure_names(sources.study):
            if name not in shown:
                yield Finding(
                    lines[section.heading],
                    "figure",
                    f"The section {section.heading!r} does not show its figure {name}.",
                    f"Put in ![{name}](../figures/{name}.png) and its caption.",
                )


def _image(line: int, path: str, after: Block | None, sources: Sources) -> Iterator[Finding]:
    name = PurePosixPath(path).stem
    figure = sources.figures.get(name)
    if figure is None or not figure.intact:
        why = "is not a figure of this study" if figure is None else "is missing or is not the picture its meta.json describes"
        known = ", ".join(sources.figures)
        yield Finding(line, "figure", f"{path} {why}.", f"Figures there are: {known}. Materialize them again if one is missing.")
        return
    marker = None if after is None else CAPTION.search(after.text)
    if after is None or marker is None or marker[1] != name:
        yield Finding(line, "caption", f"No caption follows the figure {name}.", f"Its caption is: {figure.caption}")
        return
    yield from _caption(after, figure)


def _caption(block: Block, figure: FigureFile) -> Iterator[Finding]:
    text = block.plain.removeprefix(_CAPTION_PREFIX)
    drawn = drawn_layers(figure.numbers)
    named = caption_layers(text)
    wrong = sorted(named - drawn if len(drawn) > 1 else named ^ drawn)
    if drawn and wrong:
        yield Finding(
            block.line,
            "caption-layer",
            f"The caption names layer {_list(named)}, but the figure {figure.name} draws layer {_list(drawn)} (meta.json).",
            "Correct the layer in the caption.",
        )
    elif text != escape(figure.caption):
        yield Finding(
            block.line, "caption", f"The caption of {figure.name} is not the one it was drawn with.", f"Write: {figure.caption}"
        )


def _list(layers: set[int]) -> str:
    return ", ".join(map(str, sorted(layers))) or "none"
