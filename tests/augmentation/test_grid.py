"""`tfdeit augment` as a user calls it."""

import subprocess
import sys

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def run(*args):
    command = [sys.executable, "-m", "tfdeit", "augment", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_draws_one_image_and_two(photos_dir, tmp_path):
    heights = []
    for photos in (["cat.png"], ["cat.png", "coffee.jpg"]):
        done = run(*(photos_dir / name for name in photos), "-o", tmp_path / "grid.png", "--size", "64")
        assert done.returncode == 0, done.stderr
        assert not done.stderr  # no log of TensorFlow
        with Image.open(tmp_path / "grid.png") as page:
            heights.append(page.height)
            assert str(page.height) in done.stdout
            assert len(page.convert("RGB").getcolors(1 << 24)) > 5000
    assert heights[1] > heights[0]  # the mixtures


def test_errors_say_what_to_do(photos_dir, tmp_path):
    photo = photos_dir / "cat.png"
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    for args, message in [
        ([photo, "--auto-augment", "rand-q3"], "Expected the options of RandAugment"),
        ([photo, photo, photo], "Expected one image, or two to mix"),
        ([broken], "broken.png"),
        ([tmp_path / "none.png"], "none.png"),
    ]:
        done = run(*args, "-o", tmp_path / "grid.png")
        assert done.returncode == 2
        assert done.stderr.startswith("tfdeit augment: error: ")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "grid.png").exists()
