"""Charts: what is where, in pixels."""

import colorsys

import numpy as np
import pytest
from PIL import ImageFont

from tfdeit.charts import heat_map, image_grid, line_chart, reliability_diagram, shortened

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
    dark = dark[dark[:, 0] < dark[:, 0].max() - 60]  # without the legend
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
    font = ImageFont.load_default(13)
    assert shortened("cat", font, 100) == "cat"
    cut = shortened("a very long name of a class", font, 60)
    assert cut.startswith("a ver")
    assert cut.endswith("...")
    assert font.getlength(cut) <= 60
