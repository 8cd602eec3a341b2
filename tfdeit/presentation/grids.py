"""Pages of labelled images, and maps laid over photos."""

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

from tfdeit.presentation.style import picture

GAP = 10  # pixels between tiles
_SMALLEST = 9  # pixels of letters


def image_grid(sections: Iterable[tuple[str, Iterable[tuple[str, Any]]]], size: int, columns: int = 8) -> Image.Image:
    """Draws titled sections of labelled images; letters grow with the images.

    Args:
        sections: pairs of a title and tiles; a tile is a pair of a label and pixels (size, size, 3) uint8.
        size: side of the tiles, in pixels.
        columns: tiles in a row.

    Returns:
        An RGB image.
    """
    pages = [(title, list(tiles)) for title, tiles in sections]
    letters = max(_SMALLEST, round(0.06 * size))
    step, below, above = size + GAP, round(1.7 * letters), round(2.6 * letters)
    rows = sum(-(-len(tiles) // columns) for _, tiles in pages)
    width, height = columns * step + GAP, rows * (step + below) + len(pages) * above + GAP

    def draw(figure: Figure) -> None:
        renderer: Any = RendererAgg(width, height, figure.dpi)

        def write(text: str, x: float, y: float, room: float, letters: float, weight: str) -> None:
            font = FontProperties(size=letters, weight=weight)
            fitting = text
            while fitting and renderer.get_text_width_height_descent(fitting, font, ismath=False)[0] > room:
                text = text[:-1].rstrip()
                fitting = text + "…" if text else ""
            figure.text(x / width, 1 - y / height, fitting, fontproperties=font, va="top")

        top = GAP
        for title, tiles in pages:
            write(title, GAP, top + 0.4 * letters, width - 2 * GAP, 1.3 * letters, "bold")
            top += above
            for index, (label, pixels) in enumerate(tiles):
                x, y = GAP + index % columns * step, top + index // columns * (step + below)
                figure.figimage(np.asarray(pixels), x, height - y - size, origin="upper")
                write(label, x, y + size + 0.25 * letters, size, letters, "normal")
            top += -(-len(tiles) // columns) * (step + below)

    texts = [text for title, tiles in pages for text in (title, *(label for label, _ in tiles))]
    return picture(texts, (width, height), draw)


def overlay(photo: np.ndarray, heat: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Lays a map over a photo, in the colours of `heat_bar`.

    Args:
        photo: (H, W, 3) uint8.
        heat: (h, w) in [0, 1], enlarged to the photo (bicubic).
        opacity: of the map.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = photo.shape[:2]
    heat = np.asarray(Image.fromarray(heat.astype("float32")).resize((width, height), Image.Resampling.BICUBIC))
    return np.rint(photo * (1 - opacity) + _colours(heat) * opacity).astype("uint8")


def heat_bar(size: int) -> np.ndarray:
    """Draws the colours of `overlay`, with the values that they stand for: (size, size, 3) uint8."""
    letters, wide = max(_SMALLEST, round(0.06 * size)), size // 6

    def draw(figure: Figure) -> None:
        colours = _colours(np.linspace(1, 0, size - 16)[:, None].repeat(wide, axis=1))
        figure.figimage(colours.astype("uint8"), 8, 8, origin="upper")
        for value in (0, 0.25, 0.5, 0.75, 1):
            place = (8 + wide + 8) / size, (8 + value * (size - 17)) / size
            figure.text(*place, f"{value:g}", size=letters, va="center")

    return np.asarray(picture([], (size, size), draw))


def _colours(values: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] to (..., 3) in [0, 255], of matplotlib's inferno."""
    return matplotlib.colormaps["inferno"](np.clip(values, 0, 1))[..., :3] * 255
