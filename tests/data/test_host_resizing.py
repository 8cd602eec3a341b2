"""Resizing with Numba against Pillow, at sizes that photos do not have."""

import numpy as np
import pytest
from PIL import Image

from tfdeit.data.host_resizing import compiled_resize
from tfdeit.resample import plan_resize

pytest.importorskip("numba", reason="the extra fast")


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_any_size(name):
    resize, rng = compiled_resize(), np.random.default_rng(0)
    for limit in [3, 12, 12, 70, 70, 70, 300] * 5:
        height, width, *size = rng.integers(1, limit + 1, 4).tolist()
        # A part of a larger image, as a decoder gives it.
        image = rng.integers(0, 256, (height + 3, width + 5, 3), "uint8")[1 : height + 1, 2 : width + 2]
        plan = plan_resize((height, width), size, name)
        expected = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling[name.upper()])
        np.testing.assert_array_equal(resize(image[plan.source], plan), expected, f"{image.shape} to {size}")
