"""Pictures of results, drawn with Pillow: lines, heat maps, reliability diagrams, and grids of labelled images."""

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, LABEL, SECTION = 10, 22, 40  # pixels of a grid: between tiles, for the line below each, for a section's title
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, of 2008
_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # five of inferno's
_BLUE, _GREY, _FAINT = (8, 48, 107), "#888888", "#e4e4e4"
_SHARES = (0.01, 0.1, 0.25, 0.5, 1.0)  # in the legend of a heat map
_SCALE = 2  # charts are drawn larger and reduced, for smooth lines
_MOST = 1000  # cells along a side of a heat map


def image_grid(sections: Iterable, size: int, columns: int = 8) -> Image.Image:
    """Draws titled sections of labelled images.

    Args:
        sections: pairs of a title and tiles; a tile is a pair of a label and pixels (size, size, 3) uint8.
        size: side of the tiles, in pixels.
        columns: tiles in a row.

    Returns:
        An RGB image.
    """
    sections = [(title, list(tiles)) for title, tiles in sections]
    step, font, bold = size + GAP, ImageFont.load_default(13), ImageFont.load_default(18)
    rows = sum(-(-len(tiles) // columns) for _, tiles in sections)
    page = Image.new("RGB", (columns * step + GAP, rows * (step + LABEL) + len(sections) * SECTION + GAP), "white")
    draw, top = ImageDraw.Draw(page), GAP
    for title, tiles in sections:
        draw.text((GAP, top + 6), title, "black", bold)
        top += SECTION
        for index, (label, pixels) in enumerate(tiles):
            x, y = GAP + index % columns * step, top + index // columns * (step + LABEL)
            page.paste(Image.fromarray(np.asarray(pixels)), (x, y))
            draw.text((x, y + size + 2), shortened(label, font, step), "black", font)
        top += -(-len(tiles) // columns) * (step + LABEL)
    return page


def overlay(photo: np.ndarray, heat: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Lays a map over a photo, in the colours of `heat_bar`.

    Args:
        photo: (H, W, 3) uint8.
        heat: (h, w) in [0, 1], enlarged to it (bicubic).
        opacity: of the map.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = photo.shape[:2]
    heat = np.asarray(Image.fromarray(heat.astype("float32")).resize((width, height), Image.Resampling.BICUBIC))
    return np.rint(photo * (1 - opacity) + _heat_colours(heat) * opacity).astype("uint8")


def heat_bar(size: int) -> np.ndarray:
    """Draws the colours of `overlay`, with the values that they stand for: (size, size, 3) uint8."""
    page = Image.new("RGB", (size, size), "white")
    colours = _heat_colours(np.linspace(1, 0, size - 16)[:, None].repeat(size // 6, axis=1))
    page.paste(Image.fromarray(colours.astype("uint8")), (8, 8))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for value in (0, 0.25, 0.5, 0.75, 1):
        draw.text((8 + size // 6 + 8, 8 + (1 - value) * (size - 17)), f"{value:g}", "black", font, "lm")
    return np.asarray(page)


def _heat_colours(values):
    """(...) in [0, 1] to (..., 3), linear between the `_HEAT`."""
    places = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, places, channel) for channel in zip(*_HEAT, strict=True)], axis=-1)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (900, 540),
) -> Image.Image:
    """Draws a line for each series, and a legend.

    Args:
        series: name -> points (x, y) in order of x. Points that are not finite leave a gap.
        title: above the chart.
        x_label: below it.
        y_label: above its left edge.
        size: width and height, in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there is no finite point.
    """
    points = [point for line in series.values() for point in line if np.isfinite(point).all()]
    if not points:
        raise ValueError(f"Expected at least one finite point. Received: series {list(series)} without")
    chart = _Chart(size, title)
    legend = max(chart.font.getlength(shortened(name, chart.font, 200 * _SCALE)) for name in series) / _SCALE + 50
    columns = [[point[axis] for point in points] for axis in (0, 1)]
    limits = _limits(columns[0], 0), _limits(columns[1], 0.04)
    whole = all(float(x).is_integer() for x in columns[0])  # epochs, steps
    axes = _Axes(chart, (70, 70, size[0] - round(legend), size[1] - 60), limits, (x_label, y_label), whole)
    for row, (colour, (name, line)) in enumerate(zip(_colours(len(series)), series.items(), strict=True)):
        axes.line(line, colour)
        x, y = axes.right + 14 * _SCALE, axes.top + (8 + 22 * row) * _SCALE
        chart.draw.line((x, y, x + 18 * _SCALE, y), colour, 2 * _SCALE)
        name = shortened(name, chart.font, 200 * _SCALE)
        chart.draw.text((x + 24 * _SCALE, y), name, "black", chart.font, anchor="lm")
    return chart.finish()


def reliability_diagram(
    counts: Sequence[float], accuracy: Sequence[float], confidence: Sequence[float], title: str
) -> Image.Image:
    """Draws how often the answers of each confidence are right, and how many answers there are of each.

    Args:
        counts: images in each of equally wide bins of confidence, from 0 to 1.
        accuracy: fraction of each bin that is right; anything where there are none.
        confidence: mean confidence of each bin.
        title: above the diagram.

    Returns:
        An RGB image.
    """
    chart = _Chart((560, 720), title)
    axes = _Axes(chart, (70, 70, 530, 500), ((0, 1), (0, 1)), ("", "accuracy: bars; confidence: dots"))
    shares = np.asarray(counts, "float64") / max(sum(counts), 1)
    limits = (0, 1), (0, max(shares.max(), 1e-9))
    below = _Axes(chart, (70, 560, 530, 660), limits, ("confidence", "share of images"))
    for index in np.flatnonzero(shares).tolist():
        left, right = index / len(shares), (index + 1) / len(shares)
        axes.bar(left, right, accuracy[index], COLOURS[0])
        below.bar(left, right, shares[index], _GREY)
    axes.line([(0, 0), (1, 1)], _GREY)
    for index in np.flatnonzero(shares).tolist():
        axes.dot(((index + 0.5) / len(shares), confidence[index]), COLOURS[1])
    return chart.finish()


def heat_map(
    matrix: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_label: str = "",
    y_label: str = "",
) -> Image.Image:
    """Draws counts as a table of colours: the darker, the larger the share of its row.

    Small tables have names and counts; large ones the numbers of rows and columns, and beyond `_MOST` neighbours are
    added up.

    Args:
        matrix: (R, C), not negative.
        rows: names of the rows.
        columns: names of the columns.
        title: above it.
        x_label: what the columns are.
        y_label: what the rows are.

    Returns:
        An RGB image.
    """
    matrix, steps = _summed(np.asarray(matrix, "float64"))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    height, width = matrix.shape
    cell = max(2, min(72, _MOST // max(height, width)))
    font, bold = ImageFont.load_default(13), ImageFont.load_default(18)
    named = cell >= 14
    names = [[shortened(name, font, 180) for name in axis] if named else None for axis in (rows, columns)]
    left, below = (max(map(font.getlength, axis)) + 40 if axis else 80 for axis in names)
    left, top, below = round(left), 70, round(below) + 40
    page_width = max(left + width * cell + 20, round(bold.getlength(title)) + 30, left + 430)
    page = Image.new("RGB", (page_width, top + height * cell + below), "white")
    draw = ImageDraw.Draw(page)
    draw.text((15, 14), title, "black", bold)
    tiles = Image.fromarray(_shades(shares)).resize((width * cell, height * cell), Image.Resampling.NEAREST)
    page.paste(tiles, (left, top))
    draw.rectangle((left - 1, top - 1, left + width * cell, top + height * cell), outline=_GREY)
    if named and max(font.getlength(f"{value:g}") for value in matrix.ravel()) <= cell - 4:
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                colour = "white" if shares[row, column] > 0.15 else "black"
                place = left + (column + 0.5) * cell, top + (row + 0.5) * cell
                draw.text(place, f"{value:g}", colour, font, anchor="mm")
    bottom = top + height * cell
    for place, name in _marks(names[0], height, steps[0], cell):
        draw.text((left - 6, top + place), name, "black", font, anchor="rm")
    for place, name in _marks(names[1], width, steps[1], cell):
        _text_upwards(page, (left + place, bottom + 6), name, font)
    draw.text((15, top - 20), y_label, "black", font)
    _legend(draw, (left, page.height - 26), x_label, font)
    return page


def shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """A text, its end left out if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


class _Chart:
    """A page that is drawn `_SCALE` times as large."""

    def __init__(self, size, title):
        self.image = Image.new("RGB", tuple(side * _SCALE for side in size), "white")
        self.draw, self.font = ImageDraw.Draw(self.image), ImageFont.load_default(13 * _SCALE)
        bold = ImageFont.load_default(18 * _SCALE)
        title = shortened(title, bold, (size[0] - 30) * _SCALE)
        self.draw.text((15 * _SCALE, 12 * _SCALE), title, "black", bold)

    def finish(self):
        return self.image.reduce(_SCALE)


class _Axes:
    """A frame with ticks inside a chart, and the way from values to pixels."""

    def __init__(self, chart, box, limits, labels, whole=False):
        self.draw, self.limits, (x_limits, y_limits), (x_label, y_label) = chart.draw, limits, limits, labels
        self.left, self.top, self.right, self.bottom = (side * _SCALE for side in box)
        near = 6 * _SCALE
        for value in _ticks(*x_limits):
            if whole and not float(value).is_integer():
                continue
            x, _ = self.place((value, y_limits[0]))
            self.draw.line((x, self.top, x, self.bottom), _FAINT, _SCALE)
            self.draw.text((x, self.bottom + near), f"{value:g}", "black", chart.font, anchor="mt")
        for value in _ticks(*y_limits, 6 if self.bottom - self.top > 200 * _SCALE else 2):
            _, y = self.place((x_limits[0], value))
            self.draw.line((self.left, y, self.right, y), _FAINT, _SCALE)
            self.draw.text((self.left - near, y), f"{value:g}", "black", chart.font, anchor="rm")
        self.draw.rectangle((self.left, self.top, self.right, self.bottom), outline=_GREY, width=_SCALE)
        self.draw.text((self.left, self.top - near), y_label, "black", chart.font, anchor="lb")
        middle = (self.left + self.right) / 2
        self.draw.text((middle, self.bottom + 28 * _SCALE), x_label, "black", chart.font, anchor="mt")

    def place(self, point):
        (x_low, x_high), (y_low, y_high) = self.limits
        x = self.left + (point[0] - x_low) / (x_high - x_low) * (self.right - self.left)
        y = self.bottom - (point[1] - y_low) / (y_high - y_low) * (self.bottom - self.top)
        return x, y

    def line(self, points, colour):
        run = []
        for point in [*points, (math.nan, math.nan)]:
            if np.isfinite(point).all():
                run.append(self.place(point))
            elif len(run) > 1:
                self.draw.line(run, colour, 2 * _SCALE, joint="curve")
                run = []
            elif run:
                self._disc(run.pop(), colour)

    def bar(self, left, right, height, colour):
        (x0, y0), (x1, y1) = self.place((left, height)), self.place((right, 0))
        self.draw.rectangle((x0 + _SCALE, y0, x1 - _SCALE, y1), colour)

    def dot(self, point, colour):
        self._disc(self.place(point), colour)

    def _disc(self, place, colour):
        radius = 4 * _SCALE
        self.draw.ellipse((place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius), colour)


def _colours(count):
    if count <= len(COLOURS):
        return COLOURS[:count]
    hues = (colorsys.hsv_to_rgb(i / count, 0.9, 0.75) for i in range(count))
    return [tuple(round(255 * level) for level in hue) for hue in hues]


def _limits(values, margin):
    """What an axis shows: all values, and a margin (a fraction of their range); or around the only one."""
    low, high = float(min(values)), float(max(values))
    around = (high - low) * margin if high > low else abs(low) * 0.1 or 0.5
    return low - around, high + around


def _ticks(low, high, count=6):
    """Round numbers from low to high, `count` steps at most."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count + 1e-9)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [number * step for number in numbers]


def _summed(matrix):
    """Neighbours added up, so that no side has more than `_MOST`; and how many along each axis."""
    steps = [-(-side // _MOST) for side in matrix.shape]
    for axis, step in enumerate(steps):
        matrix = np.add.reduceat(matrix, np.arange(0, matrix.shape[axis], step), axis=axis)
    return matrix, steps


def _shades(shares):
    """White to blue; the root makes rare cases visible."""
    return np.rint(255 - np.cbrt(shares)[..., None] * (255 - np.array(_BLUE))).astype("uint8")


def _marks(names, count, step, cell):
    """Pairs of pixel and text along an axis of a heat map: each name, or some numbers."""
    if names:
        return [((index + 0.5) * cell, name) for index, name in enumerate(names)]
    numbers = [round(value) for value in _ticks(0, count * step - 1, 10)]
    return [((number / step + 0.5) * cell, str(number)) for number in dict.fromkeys(numbers)]


def _text_upwards(page, top, text, font):
    """Writes a text that is read from below, centred at and ending at `top`."""
    width, height = math.ceil(font.getlength(text)) + 2, 18
    line = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(line).text((width, height / 2), text, "black", font, anchor="rm")
    page.paste(line.transpose(Image.ROTATE_90), (round(top[0] - height / 2), round(top[1])))


def _legend(draw, place, x_label, font):
    x, y = place
    draw.text((x, y - 24), x_label, "black", font)
    draw.text((x, y), "share of the row:", "black", font)
    x += font.getlength("share of the row:") + 8
    for share in _SHARES:
        draw.rectangle((x, y, x + 14, y + 14), tuple(_shades(np.array(share)).ravel().tolist()), _GREY)
        draw.text((x + 18, y), f"{share:.0%}", "black", font)
        x += 18 + font.getlength("100%") + 8
