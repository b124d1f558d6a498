"""The write-up as one HTML page that needs nothing but itself: figures, style and scripts are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape as html_escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from persona_assets.reporting.figures.output import png_size
from persona_assets.reporting.writeup.binding import CAPTION, GRID, MARKER, Binding, Book, Cell, bindings_start, read_bindings
from persona_assets.reporting.writeup.errors import WriteUpError
from persona_assets.reporting.writeup.heatmap import FIGURE, heatmap
from persona_assets.reporting.writeup.report import HEADER
from persona_assets.reporting.writeup.sources import Sources

_HALF_PAGE = 900  # pixels: narrower pictures are half a page wide
_SHORT_CELL = 40  # letters, likewise in a table
_SHORT = 20  # letters that are not broken over two lines
_BACKSLASH = re.compile(r"\\([^\w\s])")
_COMPLETION = "completion "
_LINKS = ("src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href", "ping")


def page(text: str, sources: Sources, book: Book, links: Collection[str] = ()) -> str:
    """Turn the Markdown of a write-up into its page.

    Args:
        text: from `report.markdown`.
        sources: what it was made from; the figures are taken from there.
        book: its tables, for what a number says of its origin.
        links: places in the lake, relative to the page, that it may link to.

    Raises:
        WriteUpError: a figure is missing or damaged, or the page would need something from outside.
    """
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(HEADER.sub("", text[: bindings_start(text)]))
    title = next(following.content for token, following in pairwise(tokens) if token.tag == "h1")
    contents = _name_headings(tokens)
    tokens = _lay_out(tokens, sources, read_bindings(text), book)
    body = Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704  # markdown-it escapes what it renders
    environment = Environment(
        loader=PackageLoader("persona_assets.reporting.writeup"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    rendered = environment.get_template("page.html.jinja").render(title=title, contents=contents, body=body)
    if outside := [each for each in external_references(rendered) if each not in {f"a href={link}" for link in links}]:
        raise WriteUpError(f"The page would load from outside: {', '.join(outside[:5])}. A template or a table put it there.")
    return f"{rendered}\n"


def external_references(html: str) -> Iterator[str]:
    """Find everything in a page that a browser would fetch or follow out of it."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                target = (value or "").strip()
                if name in _LINKS and not target.startswith(("#", "data:image/png;base64,")):
                    found.append(f"{tag} {name}={target[:60]}")
                if name == "style" and "url(" in target:
                    found.append(f"{tag} style={target[:60]}")
            if tag in ("link", "iframe", "object", "embed", "base", "form"):
                found.append(tag)

    Reader().feed(html)
    for style in re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL):
        found += re.findall(r"@import[^;]*|url\([^)]*\)", style)
    yield from found


def _name_headings(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Give each section an id; list ids and headings for the contents."""
    contents = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            name = re.sub(r"[^a-z0-9]+", "-", inline.content.lower()).strip("-")
            token.attrSet("id", name)
            contents.append((name, inline.content))
    return contents


def _lay_out(tokens: list[Token], sources: Sources, bindings: Mapping[int, Binding], book: Book) -> list[Token]:
    """Put figures with their captions, make tables sortable, show where numbers come from, quote completions."""
    out: list[Token] = []
    marker = sources.study.profile.marker
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "html_block":
            if not GRID.fullmatch(token.content.strip()):
                raise WriteUpError(f"The text holds HTML of its own: {token.content[:60]!r}.")
        elif token.type == "fence" and token.info.startswith(_COMPLETION):
            out.append(_html(_sample(token, marker)))
        elif token.type == "table_open":
            token.attrSet("class", "sortable")
            out += [_html('<div class="table">'), token]
        elif token.type == "table_close":
            out += [token, _html("</div>\n")]
        elif token.type == "inline" and CAPTION.search(token.content):
            out += _figure(out, token, sources)
        elif token.type == "paragraph_close" and out and out[-1].type == "html_block" and out[-1].meta.get("figure"):
            continue  # the figure closed it
        else:
            if token.type == "td_open" and following is not None and len(following.content) <= _SHORT_CELL:
                token.attrSet("class", "short")
            if token.type == "inline":
                token.children = list(_bound(token.children or [], bindings, book))
            out.append(token)
    return out


def _figure(out: list[Token], caption: Token, sources: Sources) -> list[Token]:
    """Replace the paragraphs of a picture and of its caption by one figure."""
    found = CAPTION.search(caption.content)
    assert found is not None
    name = found[1]
    picture = out[-3]
    path = next(str(child.attrs["src"]) for child in picture.children or [] if child.type == "image")
    if PurePosixPath(path).stem != name or not sources.figures[name].intact:
        raise WriteUpError(f"The figure {name} is missing or is not what its meta.json describes: materialize the figures again.")
    png = sources.figures[name].png.read_bytes()
    width, height = png_size(png)
    size = "half" if width < _HALF_PAGE else "full"
    words = "".join(child.content for child in caption.children or [] if child.type in ("text", "code_inline"))
    uri = base64.b64encode(png).decode("ascii")
    # The picture's paragraph and the one that the caption opened.
    del out[-4:]
    words_of_name = html_escape(name.replace("_", " "))
    image = f'<img src="data:image/png;base64,{uri}" width="{width}" height="{height}" alt="{words_of_name}">'
    if name == FIGURE:
        image = f"{heatmap(sources)}<details><summary>The printed figure</summary>{image}</details>"
    said = html_escape(words.removeprefix("Figure. "))
    return [_html(f'<figure id="figure-{name}" class="{size}">{image}<figcaption>{said}</figcaption></figure>\n', figure=True)]


def _sample(token: Token, marker: str) -> str:
    text = html_escape(token.content.removesuffix("\n"))
    shown = re.sub(re.escape(html_escape(marker)), lambda found: f"<mark>{found[0]}</mark>", text, flags=re.IGNORECASE)
    name = html_escape(token.info.removeprefix(_COMPLETION))
    return f'<figure class="sample"><figcaption><code>{name}</code></figcaption><pre>{shown}</pre></figure>\n'


def _bound(children: Sequence[Token], bindings: Mapping[int, Binding], book: Book) -> Iterator[Token]:
    """Turn a bound text and its marker into a text that says which cell it is."""
    kept: list[Token] = []
    for child in children:
        marker = MARKER.fullmatch(child.content) if child.type == "html_inline" else None
        if child.type == "html_inline" and marker is None:
            raise WriteUpError(f"The text holds HTML of its own: {child.content[:60]!r}.")
        if marker is None:
            kept.append(child)
            continue
        cell = bindings[int(marker[1])]
        assert isinstance(cell, Cell)
        origin = html_escape(str(cell), quote=True)
        if kept[-1].type == "code_inline":
            kept[-1].attrSet("title", str(cell))
            continue
        text = _BACKSLASH.sub(r"\1", book.text(cell))
        before = kept.pop()
        said = before.content[-len(text) :]
        short = ' class="short"' if len(said) <= _SHORT else ""
        kept += [
            _text(before.content[: -len(text)]),
            _inline(f'<data{short} value="{html_escape(said, quote=True)}" title="{origin}">'),
            _text(said),
            _inline("</data>"),
        ]
    yield from kept


def _html(content: str, *, figure: bool = False) -> Token:
    return Token("html_block", "", 0, content=content, meta={"figure": figure})


def _inline(content: str) -> Token:
    return Token("html_inline", "", 0, content=content)


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)
