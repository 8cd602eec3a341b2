"""The chart of a benchmark: images a second, a bar for each contestant, grouped by batch."""

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from tfdeit.charts import COLOURS, shortened

_SCALE = 2  # drawn larger and reduced, for smooth letters
_WIDTH, _NAME, _VALUE, _LINE, _MARGIN = 900, 190, 90, 26, 16  # pixels


def bar_chart(groups: Mapping[str, Mapping[str, float]], title: str, unit: str) -> Image.Image:
    """Draws horizontal bars, each with its number; a group has its own scale.

    Args:
        groups: title of the group -> name -> value, above 0. A name has the same colour in all groups.
        title: of the chart.
        unit: of the values.

    Returns:
        An RGB image.
    """
    lines = 1.5 + sum(len(group) + 1.5 for group in groups.values())
    size = (_SCALE * _WIDTH, _SCALE * (2 * _MARGIN + round(lines * _LINE)))
    page = Image.new("RGB", size, "white")
    draw, font, bold = ImageDraw.Draw(page), ImageFont.load_default(13 * _SCALE), ImageFont.load_default(18 * _SCALE)

    def text(x, y, words, font, anchor="lm"):
        draw.text((x * _SCALE, y * _SCALE), words, "black", font, anchor)

    text(_MARGIN, 2 * _MARGIN, shortened(title, bold, (_WIDTH - 2 * _MARGIN) * _SCALE), bold)
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    y = _MARGIN + 1.5 * _LINE
    for heading, group in groups.items():
        y += _LINE
        text(_MARGIN, y, f"{heading} ({unit})", font)
        y += 0.5 * _LINE
        longest = max(group.values())
        for name, value in group.items():
            left = _MARGIN + _NAME
            right = left + (_WIDTH - 2 * _MARGIN - _NAME - _VALUE) * value / longest
            box = (left, y + 4, right, y + _LINE - 4)
            draw.rectangle([_SCALE * side for side in box], COLOURS[names.index(name) % len(COLOURS)])
            text(left - 8, y + _LINE / 2, shortened(name, font, (_NAME - 8) * _SCALE), font, "rm")
            text(right + 8, y + _LINE / 2, f"{value:.3g}" if value < 100 else f"{value:.0f}", font)
            y += _LINE
    return page.reduce(_SCALE)
