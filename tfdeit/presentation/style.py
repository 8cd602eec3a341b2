"""What all pictures share: one style, letters for any script, and matplotlib's figures as Pillow images."""

import functools
import io
import logging
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager, ft2font
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it logs every font that has no bold letters
STYLE = Path(__file__).with_name("tfdeit.mplstyle")
_BUNDLED = "DejaVu Sans"  # comes with matplotlib
_SHAPED = ("ARABIC", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "HEBREW")  # scripts whose letters join or run leftwards
_SHAPES = tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 11)


def picture(
    texts: Iterable[str], size: tuple[float, float], draw: Callable[[Figure], None], tight: bool = False
) -> Image.Image:
    """Draws a figure in tfdeit's style.

    Args:
        texts: all words in the picture, for which fonts are found.
        size: width and height, in pixels.
        draw: called with the figure.
        tight: whether to let the picture grow or shrink to what was drawn, plus a margin.

    Returns:
        An RGB Pillow image.
    """
    families = font_families("".join(texts))
    with matplotlib.rc_context({"font.family": families}, STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # `font_families` warned
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        if tight:
            file = io.BytesIO()
            figure.savefig(file, format="png", bbox_inches="tight", pad_inches=12 / 72)
            return Image.open(file).convert("RGB")
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def font_families(text: str) -> list[str]:
    """Returns the font families that together have the characters of a text: the bundled one, then the system's.

    Warns of characters that no font has, and of scripts that this matplotlib draws letter by letter.
    """
    families, missing = [_BUNDLED], set(map(ord, text)) - {ord(c) for c in text if unicodedata.category(c)[0] in "CZ"}
    missing -= _characters(font_manager.findfont(_BUNDLED))
    for font in _system_fonts() if missing else ():
        if covered := missing & _characters(font.fname):
            families.append(font.name)
            missing -= covered
        if not missing:
            break
    if missing:
        shown = " ".join(chr(code) for code in sorted(missing)[:20]) + " ..." * (len(missing) > 20)
        warnings.warn(
            f"No installed font has {shown}: boxes are drawn instead. Install one, such as Noto.", stacklevel=2
        )
    scripts = {unicodedata.name(c, "").split(" ")[0] for c in text} & {*_SHAPED}
    if scripts and not _SHAPES:
        names = ", ".join(sorted(script.capitalize() for script in scripts))
        warnings.warn(f"{names} needs matplotlib 3.11 to be drawn as it is written.", stacklevel=2)
    return families


@functools.cache
def _system_fonts() -> list[font_manager.FontEntry]:
    """All fonts that matplotlib finds; upright sans-serif ones of normal weight first."""

    def preference(font: font_manager.FontEntry) -> tuple[bool, bool, bool, str]:
        return font.style != "normal", font.weight not in (400, "normal", "regular"), "Sans" not in font.name, font.name

    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]  # of boxes
    return sorted(fonts, key=preference)


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """The code points that a font has; none if matplotlib cannot read it."""
    try:
        return frozenset(ft2font.FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # bitmaps, as of colour emoji; a font that was uninstalled
        return frozenset()
