"""A write-up taken apart: blocks with their lines and sections, markers with the text they bind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from markdown_it import MarkdownIt

from persona_assets.reporting.writeup.binding import CAPTION, GRID, MARKER, bindings_start

Kind = Literal["heading", "paragraph", "item", "table", "fence", "comment"]
_ANY_MARKER = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s]*)\)")
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Block:
    """A heading, paragraph, list item, table, fence or comment.

    Attributes:
        kind: which of these.
        line: its first line, from 1.
        section: heading of the section (level 2) that it stands in; empty before the first.
        text: Markdown of its content; of a fence the quoted text, exactly.
        level: of a heading.
        info: what stands behind a fence's opening.
        last_line: its last line.
    """

    kind: Kind
    line: int
    section: str
    text: str
    level: int = 0
    info: str = ""
    last_line: int = 0

    def line_at(self, offset: int) -> int:
        """Line of a position in the text."""
        return self.line + self.text.count("\n", 0, offset)

    @property
    def plain(self) -> str:
        """The text without markers."""
        return _ANY_MARKER.sub("", self.text)

    @property
    def images(self) -> list[tuple[int, str]]:
        """Lines and paths of the images."""
        return [(self.line_at(found.start()), found["path"]) for found in _IMAGE.finditer(self.text)]

    @property
    def rows(self) -> list[list[str]]:
        """Cells of a table, line by line, the rule under the header included."""
        return [
            [cell.strip() for cell in _CELL_END.split(line.strip().removeprefix("|").removesuffix("|"))]
            for line in self.text.split("\n")
        ]


@dataclass(frozen=True)
class Mark:
    """A marker in a block.

    Attributes:
        block: where it stands.
        number: of its reference.
        start: where the text before it may begin: after the previous marker of the block.
        end: where the marker begins, and the bound text ends.
    """

    block: Block
    number: int
    start: int
    end: int

    @property
    def line(self) -> int:
        """Line of the marker."""
        return self.block.line_at(self.end)


@dataclass(frozen=True)
class Document:
    """A write-up in blocks.

    Attributes:
        text: the whole file.
        blocks: in order, without the references at the end.
    """

    text: str
    blocks: Sequence[Block]

    @cached_property
    def prose(self) -> list[Block]:
        """Blocks that are read as text: headings, paragraphs and list items, captions of figures left out."""
        return [b for b in self.blocks if b.kind in ("heading", "paragraph", "item") and not CAPTION.search(b.text)]

    @cached_property
    def marks(self) -> list[Mark]:
        """Every marker of the prose."""
        return [mark for block in self.prose for mark in _marks(block)]

    def sections(self) -> list[Block]:
        """Headings of level 2, in order."""
        return [block for block in self.blocks if block.kind == "heading" and block.level == 2]

    def within(self, heading: str) -> list[Block]:
        """Blocks of a section, its heading left out."""
        return [b for b in self.blocks if b.section == heading and not (b.kind == "heading" and b.level == 2)]

    def grids(self) -> Iterator[tuple[int, int, Block | None, Block | None]]:
        """Number and line of each grid's marker, the table behind it and the title before it."""
        for position, block in enumerate(self.blocks):
            found = GRID.fullmatch(block.text.strip()) if block.kind == "comment" else None
            if found:
                before = self.blocks[position - 1] if position else None
                after = self.blocks[position + 1] if position + 1 < len(self.blocks) else None
                yield int(found[1]), block.line, after if after is not None and after.kind == "table" else None, before


def parse(text: str) -> Document:
    """Take a write-up apart."""
    body = text[: bindings_start(text)]
    lines = body.split("\n")
    # A lone carriage return in a quoted completion is a line break to Markdown, and would shift every line after it.
    tokens = MarkdownIt("commonmark").enable("table").parse(body.replace("\r", "\u240d"))
    blocks: list[Block] = []
    section, inside, level, in_table = "", "paragraph", 0, False
    for token in tokens:
        first, last = token.map or (0, 0)
        raw = "\n".join(lines[first:last])
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
            if in_table:
                blocks.append(Block("table", first + 1, section, raw, last_line=last))
        elif token.type == "heading_open":
            inside, level = "heading", int(token.tag[1:])
        elif token.type == "list_item_open":
            inside = "item"
        elif token.type in ("heading_close", "list_item_close"):
            inside = "paragraph"
        elif token.type == "inline" and not in_table:
            kind: Kind = "heading" if inside == "heading" else "item" if inside == "item" else "paragraph"
            if kind == "heading" and level == 2:
                section = token.content
            blocks.append(Block(kind, first + 1, section, token.content, level if kind == "heading" else 0, last_line=last))
        elif token.type == "fence":
            closed = lines[last - 1].strip().startswith(token.markup) and last - first > 1
            quoted = "\n".join(lines[first + 1 : last - 1 if closed else last])
            blocks.append(Block("fence", first + 1, section, quoted, info=token.info.strip(), last_line=last))
        elif token.type in ("html_block", "code_block"):
            kind = "comment" if raw.strip().startswith("<!--") else "paragraph"
            blocks.append(Block(kind, first + 1, section, raw.rstrip("\n"), last_line=last))
    return Document(text, blocks)


def _marks(block: Block) -> Iterator[Mark]:
    start = 0
    for found in MARKER.finditer(block.text):
        yield Mark(block, int(found[1]), start, found.start())
        start = found.end()
