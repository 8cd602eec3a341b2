"""Charts of results: lines, training curves, confusion matrices, reliability diagrams and bars, as Pillow images."""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from tfdeit.presentation.style import picture

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#08306b"])
_MOST, _NAMED = 1000, 10  # cells along a side of a heat map; pixels of a cell from which on rows and columns have names
_CURVES = {"": "training", "val_": "validation", "ema_val_": "validation, averaged weights"}
_PANELS = {"loss": "loss", "accuracy": "accuracy", "learning_rate": "learning rate"}

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], title: str, x_label: str, y_label: str, size: tuple[int, int] = (900, 540)
) -> Image.Image:
    """Draws a line for each series, and a legend.

    Args:
        series: name -> points (x, y) in order of x. Points that are not finite leave a gap.
        title: what was measured, on which data.
        x_label: below the chart.
        y_label: beside it.
        size: width and height, in pixels.

    Raises:
        ValueError: if there is no finite point.
    """
    if not any(np.isfinite(point).all() for line in series.values() for point in line):
        raise ValueError(f"Expected at least one finite point. Received: none in the series {', '.join(series)}.")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(title=shortened(title, size[0] // 10), xlabel=x_label, ylabel=y_label)
        _draw_lines(axes, series)
        figure.legend(loc="outside right upper")

    return picture([title, x_label, y_label, *series], size, draw)


def training_curves(history: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Draws loss, accuracy (if there is one) and learning rate over the epochs, of training and evaluation.

    Args:
        history: one row per epoch: "epoch", and figures of training ("loss", ...), of evaluation ("val_loss", ...) and
            of evaluation with averaged weights ("ema_val_loss", ...).
        title: what was trained, on which data.
    """
    panels: dict[str, dict[str, Points]] = {}
    for figure_name in _PANELS:
        for prefix, name in _CURVES.items():
            points = [(row["epoch"], row[key]) for row in history if (key := prefix + figure_name) in row]
            if points:
                panels.setdefault(figure_name, {})[name] = points

    def draw(figure: Figure) -> None:
        figure.suptitle(shortened(title, 90), x=0.01, ha="left", weight="bold", size=16)
        for axes, (figure_name, series) in zip(figure.subplots(len(panels), sharex=True), panels.items(), strict=True):
            axes.set_ylabel(_PANELS[figure_name])
            _draw_lines(axes, series)
            if figure_name == "accuracy":
                axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
        axes.set_xlabel("epoch")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_CURVES))

    return picture([title], (900, 60 + 220 * len(panels)), draw)


def reliability_diagram(
    counts: Sequence[float], accuracy: Sequence[float], confidence: Sequence[float], title: str
) -> Image.Image:
    """Draws how often the answers of each confidence are right, and how many answers there are of each.

    Args:
        counts: images in each of equally wide bins of confidence, from 0 to 1.
        accuracy: fraction of each bin that is right; ignored where there are no images.
        confidence: mean confidence of each bin.
        title: what was measured, on which data.
    """
    shares = np.asarray(counts, "float64") / max(sum(counts), 1)
    filled, width = np.flatnonzero(shares), 1 / len(shares)
    middles = (filled + 0.5) * width

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        figure.suptitle(shortened(title, 60), x=0.02, ha="left", weight="bold", size=16)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        upper.bar(middles, np.asarray(accuracy)[filled], 0.92 * width, label="accuracy")
        upper.plot([0, 1], [0, 1], color="#888888", label="perfectly calibrated")
        upper.plot(middles, np.asarray(confidence)[filled], "o", color="C1", label="mean confidence")
        figure.legend(loc="outside lower center", ncols=3)
        lower.set(xlabel="confidence", ylabel="share of images", ylim=(0, max(shares.max(), 1e-9)))
        lower.bar(middles, shares[filled], 0.92 * width, color="#888888")

    return picture([title], (620, 780), draw)


def heat_map(
    matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, x_label: str = "", y_label: str = ""
) -> Image.Image:
    """Draws counts as a table of colours: the darker, the larger the share of its row.

    Small tables show names and counts; large ones the numbers of rows and columns, and beyond `_MOST` neighbours are
    added up.

    Args:
        matrix: (R, C), not negative.
        rows: names of the rows.
        columns: names of the columns.
        title: what was counted, on which data.
        x_label: what the columns are.
        y_label: what the rows are.
    """
    matrix, steps = _summed(np.asarray(matrix, "float64"))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    height, width = matrix.shape
    cell = max(2, min(72, 1200 // max(height, width)))
    named = cell >= _NAMED and steps == [1, 1]
    names = [shortened(name, 28) for name in (*rows, *columns)] if named else []

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")  # cells are whole pixels, and margins as wide as the names need
        axes = figure.add_axes((0, 0, 1, 1))
        image = axes.imshow(shares, cmap=_SHADES, norm=PowerNorm(1 / 3, 0, 1), aspect="auto")  # rare cases are seen
        axes.grid(False)
        axes.set_title(title)
        axes.set(xlabel=x_label, ylabel=y_label)
        if named:
            letters = min(13, 0.8 * cell)
            axes.set_yticks(range(height), names[:height], size=letters)
            axes.set_xticks(range(width), names[height:], size=letters, rotation=90)
            _draw_counts(axes, matrix, image, cell)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
            for axis, step in zip((axes.yaxis, axes.xaxis), steps, strict=True):
                axis.set_major_formatter(functools.partial(_number, step))
        side, height_px = width * cell, height * cell
        scale = figure.add_axes((1 + 24 / side, 1 - 220 / height_px, 16 / side, 220 / height_px))  # wherever it ends
        bar = figure.colorbar(image, scale, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1], format="{x:.0%}")
        bar.set_label("share of the row")

    return picture([title, x_label, y_label, *names], (width * cell, height * cell), draw, tight=True)


def bar_chart(groups: Mapping[str, Mapping[str, float]], title: str, unit: str) -> Image.Image:
    """Draws horizontal bars, each with its number; every group has its own scale.

    Args:
        groups: title of the group -> name -> value, above 0. A name has the same colour in all groups.
        title: what was measured, of which model and where.
        unit: of the values.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    bars = [len(group) for group in groups.values()]

    def draw(figure: Figure) -> None:
        figure.suptitle(shortened(title, 90), x=0.01, ha="left", weight="bold", size=16)
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=[count + 1 for count in bars])[:, 0]
        for axes, (heading, group) in zip(panels, groups.items(), strict=True):
            colours = [f"C{names.index(name)}" for name in group]
            drawn = axes.barh([shortened(name, 28) for name in group], list(group.values()), color=colours)
            axes.bar_label(
                drawn, [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in group.values()], padding=6
            )
            axes.set_title(f"{heading} ({unit})", size=13, weight="normal")
            axes.invert_yaxis()
            axes.margins(x=0.08)

    return picture([title, unit, *groups, *names], (900, 60 + 28 * sum(bars) + 70 * len(bars)), draw)


def shortened(text: str, width: int) -> str:
    """Returns a text, its end left out if it is wider than `width` letters; those of East Asia count as two."""
    widths = np.cumsum([2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in text])
    if not text or widths[-1] <= width:
        return text
    return text[: int((widths <= width - 1).sum())].rstrip() + "…"


def _draw_lines(axes: Axes, series: Mapping[str, Points]) -> None:
    """Draws one line per series; points between gaps, which no line would show, are dots."""
    colours = None if len(series) <= 7 else matplotlib.colormaps["hsv"](np.linspace(0, 1, len(series), endpoint=False))
    for number, (name, line) in enumerate(series.items()):
        x, y = np.array(line, "float64").reshape(-1, 2).T
        lost = ~np.isfinite(np.concatenate([[np.nan], y, [np.nan]]))
        alone = np.flatnonzero(lost[:-2] & lost[2:] & ~lost[1:-1]).tolist()
        colour = f"C{number}" if colours is None else colours[number] * (0.8, 0.8, 0.8, 1)
        axes.plot(x, y, color=colour, label=shortened(name, 28), marker="o", markevery=alone)
    if all(float(x).is_integer() for line in series.values() for x, _ in line):  # epochs, steps
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_counts(axes: Axes, matrix: np.ndarray, image: Any, cell: int) -> None:
    """Writes the counts into the cells, if all fit, in black or white, whichever stands out more."""
    longest = max(len(f"{value:g}") for value in matrix.ravel())
    letters = min(13, (cell - 4) / (0.65 * longest))
    if letters < 7:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if value:
            colour = image.to_rgba(image.get_array()[row, column])[:3]
            white = (1.05 / (luminance(colour) + 0.05)) > (luminance(colour) + 0.05) / 0.05
            axes.text(
                column, row, f"{value:g}", color="white" if white else "black", ha="center", va="center", size=letters
            )


def luminance(colour: Any) -> float:
    """Returns the relative luminance of a colour, 0 to 1, as WCAG 2 defines it for contrasts."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _number(step: int, index: float, _: int) -> str:
    """Returns the label of a tick, in the signature of matplotlib's formatters."""
    return f"{round(index * step)}"


def _summed(matrix: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Adds up neighbours, so that no side has more than `_MOST`; also returns how many along each axis."""
    steps = [-(-side // _MOST) for side in matrix.shape]
    for axis, step in enumerate(steps):
        matrix = np.add.reduceat(matrix, np.arange(0, matrix.shape[axis], step), axis=axis)
    return matrix, steps
