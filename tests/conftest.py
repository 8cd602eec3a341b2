"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_images() -> list[Path]:
    """Real photos: 50 of ImageNet and 4 others, kept beside a checkout and not part of the project."""
    folder = ROOT.parent / "shared" / "images"
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    if not paths:
        pytest.skip(f"needs real photos in {folder}")
    return paths


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """The photos that the project ships."""
    return ROOT / "examples" / "photos"


@pytest.fixture(scope="session")
def engines_python() -> Path:
    """Python of the environment for what wants older versions of what tfdeit uses; tfdeit is not installed there."""
    python = Path(os.environ.get("TFDEIT_ENGINES", Path(sys.prefix) / "engines"), "bin", "python")
    if not python.is_file():
        pytest.skip(f"needs the environment {python.parent.parent}, which `make test` makes")
    return python


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
