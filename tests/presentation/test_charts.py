"""Charts: what is where, in pixels."""

import colorsys

import numpy as np
import pytest
from matplotlib import font_manager

from tfdeit.presentation.charts import (
    bar_chart,
    heat_map,
    line_chart,
    luminance,
    reliability_diagram,
    shortened,
    training_curves,
)
from tfdeit.presentation.grids import image_grid
from tfdeit.presentation.style import font_families

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def places(image, colour):
    """(N, 2) rows and columns of the pixels of one colour."""
    return np.argwhere((np.asarray(image) == colour).all(axis=-1))


def test_lines_go_where_the_values_are():
    series = {"rising": [(0, 0), (10, 10)], "falling": [(0, 10), (10, 0)]}
    image = line_chart(series, "title", "x", "y", (600, 400))
    assert image.size == (600, 400)
    for colour, sign in ((BLUE, -1), (ORANGE, 1)):
        found = places(image, colour)
        found = found[found[:, 1] < found[:, 1].max() - 100]  # without the legend
        assert np.ptp(found[:, 0]) > 200
        assert np.corrcoef(found.T)[0, 1] * sign > 0.99


def test_what_is_not_finite_leaves_a_gap():
    points = [(x, 1.0 + (x % 2)) for x in range(20)]
    whole = line_chart({"a": points}, "", "", "")
    points[8:12] = [(x, np.nan) for x in range(8, 12)]
    broken = line_chart({"a": points}, "", "", "")
    assert len(places(broken, BLUE)) < 0.9 * len(places(whole, BLUE))
    with pytest.raises(ValueError, match="Expected at least one finite point"):
        line_chart({"loss": [(0, np.nan)], "accuracy": []}, "", "", "")


@pytest.mark.parametrize("points", [[(0, 0)], [(3, -2.5)], [(0, 1e9), (1, 1e-9)], [(1, 5), (1, 5)]])
def test_any_values(points):
    assert len(places(line_chart({"a": points}, "t", "x", "y"), BLUE)) > 10


def test_many_series_have_colours_of_their_own():
    series = {f"series {i}": [(0, i), (1, i)] for i in range(12)}
    colours = [colour for count, colour in line_chart(series, "", "", "").getcolors(1 << 20) if count > 200]
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in colours if len(set(colour)) > 1]
    assert len({round(hue * 12) % 12 for hue in hues}) == 12


@pytest.mark.parametrize("size", [1, 3, 10, 60, 1000, 2500])
def test_heat_maps_of_any_size(size):
    names = [f"a class with a long name, number {i}" for i in range(size)]
    image = heat_map(np.eye(size) * 7, names, names, "title")
    assert max(image.size) < 2400
    dark = places(image, (8, 48, 107))
    dark = dark[dark[:, 1] < dark[:, 1].max() - 24]  # without the colour bar
    rows, columns = dark.T
    assert abs((rows - rows.min()) - (columns - columns.min())).max() <= 72  # on the diagonal, cells 72 at most
    assert np.ptp(rows) >= 60


def test_cells_show_shares_of_their_row():
    image = np.asarray(heat_map([[90, 10], [0, 0]], ["a", "b"], ["c", "d"], "t"))
    blueness = 255 - image[..., 0].astype(int)
    top = np.flatnonzero((image == (136, 136, 136)).all(axis=-1).sum(axis=1) > 100)[0] + 1
    left = np.flatnonzero((image == (136, 136, 136)).all(axis=-1).sum(axis=0) > 100)[0] + 1
    cells = [[blueness[top + 72 * r + 5, left + 72 * c + 5] for c in range(2)] for r in range(2)]
    assert cells[0][0] > cells[0][1] > 50
    assert cells[1] == [0, 0]


def test_reliability():
    counts, accuracy = np.zeros(15), np.zeros(15)
    counts[[5, 10]], accuracy[[5, 10]] = (30, 70), (0.2, 0.8)
    image = reliability_diagram(counts, accuracy, np.linspace(0, 1, 15), "t")
    found = places(image, BLUE)
    found = found[found[:, 0] < found[:, 0].max() - 60]  # without the legend
    left = found[found[:, 1] < found[:, 1].mean()]
    right = found[found[:, 1] > found[:, 1].mean()]
    assert np.ptp(right[:, 0]) == pytest.approx(4 * np.ptp(left[:, 0]), rel=0.05)
    assert len(places(image, ORANGE)) > 50
    assert reliability_diagram(np.zeros(15), accuracy, accuracy, "nothing").size == image.size


def test_grids_hold_their_images(rng):
    tiles = [(f"tile {i}", rng.integers(0, 256, (16, 16, 3), "uint8")) for i in range(5)]
    page = np.asarray(image_grid([("first", tiles[:4]), ("second", tiles[4:])], 16, columns=3))
    found = [
        np.lib.stride_tricks.sliding_window_view(page, (16, 16, 3)).reshape(-1, 768) == tile.ravel()
        for _, tile in tiles
    ]
    assert [int(windows.all(axis=1).sum()) for windows in found] == [1] * 5


def test_long_names_are_shortened():
    assert shortened("cat", 3) == "cat"
    assert shortened("a very long name of a class", 8) == "a very…"
    assert shortened("飞机和汽车", 7) == "飞机和…"  # twice as wide
    assert shortened("", 5) == ""


@pytest.mark.parametrize("share", np.linspace(0, 1, 21).tolist())
def test_numbers_in_cells_have_contrast_at_every_shade(share):
    """At least 4.5 to 1, as WCAG 2 wants of text."""
    count = round(1000 * share)
    image = np.asarray(heat_map([[count, 1000 - count], [0, 1000]], ["a", "b"], ["c", "d"], "t"))
    grey = (image == (136, 136, 136)).all(axis=-1)
    top, left = (np.flatnonzero(grey.sum(axis=axis) > 100)[0] + 1 for axis in (1, 0))
    cell = image[top + 4 : top + 68, left + 4 : left + 68].reshape(-1, 3) / 255
    shade, levels = luminance(cell[0]), [luminance(colour) for colour in np.unique(cell, axis=0)]
    contrasts = [(max(level, shade) + 0.05) / (min(level, shade) + 0.05) for level in levels]
    assert max(contrasts) >= 4.5 or count == 0  # zeros are not written


NAMES = {
    "German": ["Vögel", "Füchse", "Straße", "Ähren"],
    "Russian": ["кошка", "собака", "лошадь", "олень"],
    "Arabic": ["قطة", "كلب", "حصان", "غزال"],
}


@pytest.mark.parametrize("language", NAMES)
def test_letters_of_the_bundled_font(language):
    """No warning, which would be an error here; and each name is drawn, as something else than the others."""
    pages = {image_grid([("", [(name, np.zeros((64, 64, 3), "uint8"))])], 64).tobytes() for name in NAMES[language]}
    assert len(pages) == 4
    names = NAMES[language]
    assert min(heat_map(np.eye(4), names, names, names[0]).size) > 4 * 72
    line_chart({name: [(0, 1)] for name in names}, names[0], "", "")
    bar_chart({names[0]: dict.fromkeys(names, 1.0)}, "title", "images/s")


def test_letters_of_a_font_of_the_system():
    if not any("CJK" in font.name for font in font_manager.fontManager.ttflist):
        pytest.skip("needs a font with Chinese characters, such as Debian's fonts-noto-cjk")
    assert font_families("猫 and 狗") == [font_families("a")[0], font_families("猫")[1]]
    drawn = {image_grid([("", [(name, np.zeros((64, 64, 3), "uint8"))])], 64).tobytes() for name in "猫狗马鹿"}
    assert len(drawn) == 4


def test_letters_that_no_font_has(monkeypatch):
    monkeypatch.setattr("tfdeit.presentation.style._system_fonts", list)
    with pytest.warns(UserWarning, match="No installed font has 猫: boxes are drawn instead") as caught:
        image = heat_map(np.eye(2), ["a", "猫"], ["b", "c"], "title")
    assert len(caught) == 1
    assert image.width > 144


def test_old_matplotlib_is_said_not_to_join_letters(monkeypatch):
    monkeypatch.setattr("tfdeit.presentation.style._SHAPES", False)
    with pytest.warns(UserWarning, match="Arabic needs matplotlib 3.11"):
        font_families("قطة")


def test_letters_of_a_grid_grow_with_it():
    heights = {}
    for size in (96, 224, 448):
        page = np.asarray(image_grid([("title", [("WWW", np.full((size, size, 3), 255, "uint8"))])], size, 1))
        ink = np.flatnonzero((page.min(axis=-1) < 128).any(axis=1))
        heights[size] = (ink > ink.max() - size // 4).sum()  # of the caption
    assert heights[448] == pytest.approx(2 * heights[224], rel=0.15)
    assert heights[96] >= 6


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_training_curves(epochs):
    rows = [
        {"epoch": n, "loss": 1 / n, "accuracy": 0.5, "learning_rate": 1e-3, "val_loss": 2 / n, "val_accuracy": 0.4}
        for n in range(1, epochs + 1)
    ]
    page = training_curves(rows, "run: what on which")
    assert page.height > training_curves([{"epoch": 1, "loss": 1.0, "learning_rate": 1.0}], "masked images").height
    blue, orange = places(page, BLUE), places(page, ORANGE)
    panel = page.height / 3.3
    assert len({int(row // panel) for row in blue[:, 0]}) >= 3  # loss, accuracy, learning rate
    assert len(orange) > 10
