"""Fixtures shared by all tests, and by the modules of one topic.

Those that need tfdeit import it themselves: in a worker of pytest-xdist, coverage begins after this module.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
from PIL import Image
from web import Server

ROOT = Path(__file__).parent.parent


def slow(*values):
    """Parameters that take long."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


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


# Images.


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (6, 32, 48, 3), "uint8")


@pytest.fixture
def pixel_values(rng):
    return rng.normal(size=(4, 32, 32, 3)).astype("float32")


@pytest.fixture
def small(rng):
    """Five smooth images of odd sizes, as PIL."""
    sizes = [(61, 47), (30, 90), (41, 41), (7, 5), (100, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype="uint8")) for size in sizes]


@pytest.fixture
def files(tmp_path, rng):
    """40 small images of several formats and sizes."""
    from training_data import Files

    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i:02}.{('jpg', 'png', 'bmp', 'webp')[i % 4]}")
        height, width = rng.integers(20, 60, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), "uint8")).save(paths[-1])
    return Files(paths)


# Processors.


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is the reference")


# Checkpoints.


@pytest.fixture(scope="module")
def random_classifier():
    """A classifier of ours, all of it random; not to be changed."""
    from checkpoints import MICRO

    import tfdeit

    model = tfdeit.TFDeiTForImageClassification(tfdeit.DeiTConfig(**MICRO))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    return model


@pytest.fixture
def saved(random_classifier, tmp_path):
    """A random classifier, and a directory it is saved in."""
    random_classifier.save_pretrained(tmp_path / "saved")
    return random_classifier, tmp_path / "saved"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("TFDEIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """Our own files of a small model, and the model."""
    from checkpoints import MICRO

    import tfdeit

    folder = tmp_path_factory.mktemp("micro")
    model = tfdeit.TFDeiTForImageClassificationWithTeacher(tfdeit.DeiTConfig(**MICRO, initializer_range=0.5))
    model.save_pretrained(folder)
    tfdeit.DeiTImageProcessor(size=36, crop_size=32).save_pretrained(folder)
    return model, {path.name: path.read_bytes() for path in folder.iterdir()}


# Exports.


@pytest.fixture(scope="session")
def embedded():
    """The checkpoint that comes with the package, and its processor."""
    import tfdeit

    name = "deit_micro_cifar10"
    return (
        tfdeit.TFAutoModelForImageClassification.from_pretrained(name),
        tfdeit.AutoImageProcessor.from_pretrained(name),
    )


@pytest.fixture(scope="session")
def exported(embedded, tmp_path_factory):
    """Version 1 of the embedded checkpoint."""
    from tfdeit.exports.saved_model.export import export_saved_model

    return export_saved_model(*embedded, tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session")
def images(photos_dir):
    """The bytes of each photo."""
    return [path.read_bytes() for path in sorted(photos_dir.glob("*.*")) if path.suffix != ".md"]


@pytest.fixture(scope="session")
def expected(embedded, images):
    """Class indices (B, 5) and probabilities (B, 5), from the library."""
    from served import answers

    return answers(*embedded, images)
