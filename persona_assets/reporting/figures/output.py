"""A drawn figure and its three files: png, pdf and meta.json, byte for byte the same for the same tables."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_assets.reporting.figures import style
from persona_assets.reporting.figures.context import Provenance
from persona_assets.reporting.figures.errors import FigureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PNG_BYTES = 300_000
PNG_WIDTHS = (600, 1000)  # pixels
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class WrittenFigure:
    """Paths of one figure's files."""

    name: str
    png: Path
    pdf: Path
    meta: Path


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption and every number drawn in it.

    Attributes:
        name: File name without suffix.
        figure: The matplotlib figure.
        caption: Sentence or two; names the layer, where one is drawn.
        numbers: Every number drawn: name of a series -> its rows (or one value).
        provenance: Where the numbers come from.
    """

    name: str
    figure: Figure
    caption: str
    numbers: dict[str, Any]
    provenance: Provenance

    def __post_init__(self) -> None:
        """Check the name and the caption, and lay the figure out.

        Raises:
            FigureError: A name that is no file name, or an empty caption.
        """
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise FigureError(f"a figure is named with a-z, 0-9 and _ only, got {self.name!r}")
        if not self.caption.strip():
            raise FigureError(f"figure {self.name} has no caption")
        with style.styled():
            style.freeze_layout(self.figure)

    def png(self) -> bytes:
        """Render the png.

        Raises:
            FigureError: The picture is wider, narrower or larger than a report may hold.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        # By the canvas: `savefig` draws once more before it, for a layout that is fixed here.
        self.figure.set_dpi(style.dots_per_inch(float(self.figure.get_figwidth())))  # a pdf drawn before changes it
        with style.styled():  # without `Software`, bytes do not change with the version string
            FigureCanvasAgg(self.figure).print_png(buffer, metadata={"Software": None})
        data = buffer.getvalue()
        pixels = png_size(data)[0]
        if not PNG_WIDTHS[0] <= pixels <= PNG_WIDTHS[1]:
            raise FigureError(f"figure {self.name} is {pixels} pixels wide, allowed are {PNG_WIDTHS}")
        if len(data) > MAX_PNG_BYTES:
            raise FigureError(f"figure {self.name} has {len(data)} bytes as png, allowed are {MAX_PNG_BYTES}")
        return data

    def pdf(self) -> bytes:
        """Render the pdf, without a creation date."""
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        buffer = io.BytesIO()
        with style.styled():
            FigureCanvasPdf(self.figure).print_pdf(buffer, metadata={"CreationDate": None, "Title": self.name})
        return buffer.getvalue()

    def write(self, directory: Path) -> WrittenFigure:
        """Write `<name>.png`, `<name>.pdf` and `<name>.meta.json`.

        Args:
            directory: Where to; made if it is not there.

        Returns:
            The three paths.

        Raises:
            FigureError: The picture breaks a limit, or a number drawn is not finite.
        """
        png, pdf = self.png(), self.pdf()
        width, height = png_size(png)
        meta = {
            "figure": self.name,
            "study": self.provenance.study,
            "asset": self.provenance.asset,
            "data_version": self.provenance.data_version,
            "caption": self.caption,
            "numbers": self.numbers,
            "files": {
                f"{self.name}.png": {
                    "sha256": hashlib.sha256(png).hexdigest(),
                    "bytes": len(png),
                    "width_px": width,
                    "height_px": height,
                },
                f"{self.name}.pdf": {"sha256": hashlib.sha256(pdf).hexdigest(), "bytes": len(pdf)},
            },
        }
        try:
            text = json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise FigureError(f"figure {self.name} draws a number that is not finite: {error}") from error
        directory.mkdir(parents=True, exist_ok=True)
        written = WrittenFigure(self.name, *(directory / f"{self.name}{s}" for s in (".png", ".pdf", ".meta.json")))
        written.png.write_bytes(png)
        written.pdf.write_bytes(pdf)
        written.meta.write_text(text + "\n", encoding="utf-8")
        return written


def png_size(png: bytes) -> tuple[int, int]:
    """Read width and height in pixels from the header of a png.

    Raises:
        FigureError: The bytes are not a png.
    """
    if png[:8] != _PNG_SIGNATURE or len(png) < 24:
        raise FigureError(f"not a png: the data begins with {png[:8]!r}")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def png_bytes_to_markdown(png: bytes) -> str:
    """Write a png as a Markdown image that holds its own data, for the metadata of a materialization.

    Args:
        png: The file's bytes.

    Returns:
        `![](data:image/png;base64,...)`.

    Raises:
        FigureError: Not a png, or above 300 KB, which would swell every event log that carries it.
    """
    png_size(png)
    if len(png) > MAX_PNG_BYTES:
        raise FigureError(f"a png of {len(png)} bytes is too large to embed (limit {MAX_PNG_BYTES}): draw it smaller")
    return f"![](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"
