"""The font of the figures: DejaVu Sans, which comes with matplotlib, so the glyphs are the same on every machine."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

_FAMILY = "DejaVu Sans without layout tables"
_FILES = ("DejaVuSans.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-BoldOblique.ttf")
_LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB", "MATH")
_FAMILY_NAMES = (1, 16)  # records of the table `name`, OpenType specification


@cache
def font_family() -> str:
    """Make the fonts known to matplotlib, once a process, and return the name of their family.

    Every pdf embeds the glyphs that it uses. Cutting them out takes fontTools through the tables of OpenType layout: a third
    of the time that all figures of a study take, for a few ligatures. So those tables are dropped first.
    """
    import matplotlib
    from fontTools.ttLib import TTFont
    from matplotlib.font_manager import fontManager

    directory = Path(tempfile.mkdtemp(prefix="persona-assets-fonts-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    for file in _FILES:
        font = TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file, recalcTimestamp=False, lazy=True)
        for table in _LAYOUT_TABLES:
            if table in font:
                del font[table]
        for record in font["name"].names:
            if record.nameID in _FAMILY_NAMES:
                record.string = _FAMILY
        font.save(directory / file)
        fontManager.addfont(directory / file)
    return _FAMILY
