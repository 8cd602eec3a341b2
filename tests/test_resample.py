"""Position tables against torch, images against Pillow."""

import numpy as np
import PIL
import pytest
from PIL import Image

from tfdeit.resample import interpolation_matrix, plan_resize, resample, resample_float, resize_positions, taps_matrix

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
SIZES = [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((14, 14), (7, 20)), ((3, 5), (16, 9)), ((1, 4), (3, 3))]


@pytest.mark.parametrize(("grid", "size"), SIZES)
@pytest.mark.parametrize("kernel", ["torch", "timm", "bilinear"])
def test_positions_match_torch(grid, size, kernel, rng):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    table = rng.standard_normal((*grid, 8)).astype("float32")
    expected = torch.nn.functional.interpolate(
        torch.tensor(table).permute(2, 0, 1)[None],
        size=size,
        mode="bilinear" if kernel == "bilinear" else "bicubic",
        align_corners=False,
        antialias=kernel == "timm",
    )
    result = resize_positions(table, size, kernel)
    assert result.dtype == np.float32
    assert np.abs(result - expected[0].permute(1, 2, 0).numpy()).max() <= 1e-5


@pytest.mark.parametrize("kernel", ["torch", "timm", "bilinear"])
def test_same_size_is_the_identity(kernel):
    assert np.array_equal(interpolation_matrix(14, 14, kernel), np.eye(14))


def test_the_kernels_differ():
    matrices = [interpolation_matrix(24, 14, kernel) for kernel in ("torch", "timm", "bilinear")]
    for i in range(3):
        assert np.abs(matrices[i] - matrices[i - 1]).max() > 0.1
        assert np.allclose(matrices[i].sum(axis=1), 1, atol=1e-6)


def test_unknown_kernel_and_size():
    with pytest.raises(ValueError, match=r"bilinear.*timm.*torch.*Received: 'cubic'"):
        interpolation_matrix(14, 24, "cubic")
    with pytest.raises(ValueError, match="at least 1.*out_size=0"):
        interpolation_matrix(14, 0)


def random_images(rng, count):
    """Pairs (image, (height, width) to resize to): up, down, extreme and one pixel wide."""
    for _ in range(count):
        height, width, *size = (int(rng.integers(1, rng.choice([4, 60, 200]))) for _ in range(4))
        yield rng.integers(0, 256, (height, width, 3), dtype="uint8"), tuple(size)


def resize(image, size, name, window=None, order=None):
    plan = plan_resize(image.shape[:2], size, name, window, order)
    return resample(image[plan.source], plan.rows, plan.columns, plan.vertical)


def pillow(image, size, name):
    return np.array(Image.fromarray(image).resize(size[::-1], FILTERS[name]))


@pytest.mark.parametrize("name", FILTERS)
def test_images_match_pillow(name, rng):
    for image, size in random_images(rng, 200):
        assert np.array_equal(resize(image, size, name), pillow(image, size, name)), (image.shape, size)


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos"])
def test_both_pass_orders(name, rng):
    """Two Pillow calls, one axis each, are the reference that does not depend on Pillow's version."""
    differing = 0
    for image, size in random_images(rng, 200):
        (height, width), (new_height, new_width) = image.shape[:2], size
        vertical = new_height < height and height - new_height > 2 * (width - new_width)
        by_order = {
            "horizontal": pillow(pillow(image, (height, new_width), name), size, name),
            "vertical": pillow(pillow(image, (new_height, width), name), size, name),
        }
        differing += not np.array_equal(*by_order.values())
        assert np.array_equal(resize(image, size, name, order="horizontal"), by_order["horizontal"])
        expected = by_order["vertical" if vertical else "horizontal"]
        assert np.array_equal(resize(image, size, name, order="pillow13"), expected)
        if int(PIL.__version__.split(".")[0]) >= 13:
            assert np.array_equal(expected, pillow(image, size, name))
    assert differing > 100  # the orders are distinguishable


@pytest.mark.parametrize("name", FILTERS)
def test_window_equals_resize_then_crop(name, rng):
    for image, size in random_images(rng, 60):
        top, left = (int(rng.integers(-3, n)) for n in size)
        height, width = int(rng.integers(1, 30)), int(rng.integers(1, 30))
        canvas = np.pad(pillow(image, size, name), ((3, 40), (3, 40), (0, 0)))
        expected = canvas[top + 3 : top + 3 + height, left + 3 : left + 3 + width]
        assert np.array_equal(resize(image, size, name, (top, left, height, width)), expected)


@pytest.mark.parametrize("shape", [(20000, 1), (1, 20000), (2, 4000), (4000, 2)])
def test_a_window_of_a_thin_image_reads_few_pixels(shape, rng):
    image = rng.integers(0, 256, (*shape, 3), dtype="uint8")
    size = tuple(256 * n // min(shape) for n in shape)
    window = (size[0] - 224) // 2, (size[1] - 224) // 2, 224, 224
    plan = plan_resize(shape, size, "bicubic", window)
    assert image[plan.source].size < 100
    # The part that is read, enlarged by the same factor, is small enough for Pillow.
    long = int(np.argmax(shape))
    around = slice(plan.source[long].start - 8, plan.source[long].stop + 8)
    part = image[around] if long == 0 else image[:, around]
    scale = size[long] // shape[long]
    expected = pillow(part, tuple(n * scale for n in part.shape[:2]), "bicubic")
    shift = [window[0], window[1]]
    shift[long] -= around.start * scale
    expected = expected[shift[0] : shift[0] + 224, shift[1] : shift[1] + 224]
    assert np.array_equal(resize(image, size, "bicubic", window), expected)


def test_matrix_products_stay_within_one_level(rng):
    worst, differing, total = 0, 0, 0
    for image, size in random_images(rng, 100):
        plan = plan_resize(image.shape[:2], size, "bicubic")
        image = image[plan.source]
        rows, columns = taps_matrix(plan.rows, image.shape[0]), taps_matrix(plan.columns, image.shape[1])
        exact = resample(image, plan.rows, plan.columns, plan.vertical)
        difference = np.abs(resample_float(image[None], rows, columns, plan.vertical)[0] - exact)
        worst, differing, total = max(worst, difference.max()), differing + (difference > 0).sum(), total + exact.size
    assert worst <= 1
    assert differing / total < 1e-3
