"""The embedded checkpoint: small, in the hub's format, and as good as its README says."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import tfdeit
from tfdeit.checkpoint.files import find_directory
from tfdeit.checkpoint.readers import read_weights
from tfdeit.cli.arguments import DEFAULT_MODEL


@pytest.fixture(scope="module")
def classifier():
    model = tfdeit.TFAutoModelForImageClassification.from_pretrained(DEFAULT_MODEL)
    return model, tfdeit.AutoImageProcessor.from_pretrained(DEFAULT_MODEL)


def test_it_is_small_and_in_float16():
    directory = find_directory(DEFAULT_MODEL)
    assert sum(path.stat().st_size for path in directory.iterdir()) < 3e6
    assert {array.dtype for array in read_weights(directory).values()} == {np.dtype("float16")}


def test_it_names_the_cat(classifier, photos_dir):
    model, processor = classifier
    logits = model(**processor(photos_dir / "cat.png")).logits
    assert model.config.id2label[int(np.argmax(logits))] == "cat"


def test_transformers_agrees(classifier, photos_dir):
    transformers = pytest.importorskip("transformers", reason="the oracle: pip install tfdeit[parity]")
    from oracles import answer

    model, processor = classifier
    theirs = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(find_directory(DEFAULT_MODEL))
    inputs = processor(sorted(photos_dir.glob("*.[jp][pn]g")))
    expected = answer(theirs.float().eval(), inputs.pixel_values)["logits"]
    np.testing.assert_allclose(model(**inputs).logits, expected, atol=1e-4)


@pytest.mark.slow
def test_its_accuracy_is_the_one_in_its_readme(classifier):
    data = ROOT.parent / "shared" / "data" / "cifar10-images.zip"
    if not data.is_file():
        pytest.skip(f"needs the CIFAR-10 JPEGs in {data}")
    model, processor = classifier
    with zipfile.ZipFile(data) as archive:
        names = [name for name in archive.namelist() if name.startswith("test/") and name.endswith(".jpg")]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
    assert len(images) == 10_000
    labels = [model.config.label2id[name.split("/")[1]] for name in names]
    logits = model.predict(processor(images).pixel_values, batch_size=500, verbose=0).logits
    correct = int((np.argmax(logits, axis=-1) == labels).sum())
    readme = (Path(find_directory(DEFAULT_MODEL)).parent / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"Test accuracy \*\*([\d.]+)%\*\*", readme)[1])
    assert stated >= 60
    assert abs(correct / 100 - stated) <= 0.05  # a few images sit on the fence between two kinds of processor
