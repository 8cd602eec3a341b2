"""`tfdeit export` as a user meets it: the command, the files, and the code in their README."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfdeit.cli.main import main
from tfdeit.exports import FORMATS
from tfdeit.inference.classifier import load_classifier
from tfdeit.preprocessing.processors import AutoImageProcessor

TFDEIT = Path(sys.executable).with_name("tfdeit")
MODEL = "deit_micro_cifar10"
LOAD = functools.cache(load_classifier)
DOCS = Path(__file__).parents[2] / "docs" / "exports.md"


def need(name):
    for module in FORMATS[name].packages:
        pytest.importorskip(module, reason=f"format {name} needs tfdeit[export]")


def classify_as_the_readme_says(directory, photos):
    """Runs the code of README.md in a process that has this library not; returns {path: best class}."""
    code = re.search(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)[1]
    assert "tfdeit" not in code
    command = [sys.executable, "-c", "import sys\nsys.modules['tfdeit'] = sys.modules['keras'] = None\n" + code]
    done = subprocess.run([*command, *photos], cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(line.split("  ")[:2] for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def predicted(photos_dir):
    """{path: best class}, by the library itself."""
    photos = sorted(map(str, photos_dir.glob("*.png")))
    done = subprocess.run([TFDEIT, "predict", *photos], capture_output=True, text=True, timeout=300, check=True)
    return {line.split()[0]: " ".join(line.split()[1:3]) for line in done.stdout.splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in FORMATS if name != "savedmodel"), ("openvino", "bfloat16")]
)
def test_exported_networks_classify_photos_without_this_library(name, dtype, tmp_path, photos_dir, predicted):
    need(name)
    if name == "torch":
        pytest.importorskip("transformers", reason="the README of torch uses transformers")
    command = [TFDEIT, "export", "--model", MODEL, "--format", name, "--dtype", dtype]
    command += ["--check", photos_dir, "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "100.0%" in done.stdout
    classified = classify_as_the_readme_says(tmp_path / "out", list(predicted))
    if dtype == "float32":
        assert classified == predicted
    else:  # the scores are others
        assert {path: best.split()[0] for path, best in classified.items()} == {
            path: best.split()[0] for path, best in predicted.items()
        }


@pytest.mark.slow
def test_savedmodel_gets_another_version(tmp_path):
    (tmp_path / "out" / "7").mkdir(parents=True)
    command = [TFDEIT, "export", "--model", MODEL, "-o", tmp_path / "out", "--top-k", "2", "--dtype", "bfloat16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "same most probable class" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"7", "8", "models.config", "README.md"} <= names
    weights = sum(path.stat().st_size for path in (tmp_path / "out" / "8" / "variables").iterdir())
    assert weights < 3e6  # two bytes for each of 1.2 million
    assert "`classes` (B, 2) string" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_another_backend_is_refused(tmp_path):
    pytest.importorskip("jax", reason="needs another backend of Keras")
    command = [TFDEIT, "export", "--format", "torch", "-o", tmp_path / "out"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2
    assert "Expected Keras' TensorFlow backend" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def export(tmp_path, capfd, monkeypatch):
    """Runs the command in this process; returns exit status, stdout and stderr."""
    monkeypatch.setattr("tfdeit.exports.comparison._SECONDS", 0.0)
    monkeypatch.setattr("tfdeit.cli.export.load_classifier", LOAD)

    def run(*arguments):
        status = main(["export", "-o", str(tmp_path / "out"), *map(str, arguments)])
        return (status, *capfd.readouterr())

    return run


def test_labels_and_protocol_are_those_asked_for(export, tmp_path, photos_dir):
    need("onnx")
    (tmp_path / "names.txt").write_text("\n".join(f"Sorte {i}" for i in range(10)))
    arguments = ["--format", "onnx", "--labels", tmp_path / "names.txt", "--protocol", "vit", "--check", photos_dir]
    status, printed, errors = export(*arguments)
    assert (status, errors) == (0, "")
    assert "onnx in float32" in printed
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == [f"Sorte {i}" for i in range(10)]
    assert '"Sorte 3"' in (tmp_path / "out" / "config.json").read_text()
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size == {"height": 32, "width": 32}


def test_what_cannot_be_exported_is_an_error_and_leaves_nothing(export, tmp_path, rng):
    need("onnx")
    photos, empty = tmp_path / "photos", tmp_path / "empty"
    photos.mkdir()
    empty.mkdir()
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), "uint8")).save(photos / "good.png")
    (photos / "broken.jpg").write_bytes((photos / "good.png").read_bytes()[:100])
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    cases = {
        "no-such-model": ["--model", "no-such-model"],
        "dtype that format onnx supports. Received: 'int8'.\n  There are: savedmodel:": ["--dtype", "int8"],
        "broken.jpg (": ["--check", photos],
        "no images found": ["--check", empty],
        f"Expected 10 labels, one per class. Received: 2 labels in {tmp_path}": ["--labels", tmp_path / "labels.txt"],
        "Received: top_k with format onnx": ["--top-k", "3"],
    }
    for message, arguments in cases.items():
        status, printed, errors = export("--format", "onnx", *arguments)
        assert (status, printed) == (2, "")
        assert message in errors
        assert not (tmp_path / "out").exists()
    assert "good.png" not in errors


def test_difference_is_shown_and_fails(export, tmp_path, monkeypatch):
    need("onnx")
    monkeypatch.setattr("tfdeit.exports.export.tolerance", lambda config, dtype: 1e-12)
    status, printed, errors = export("--format", "onnx")
    assert status == 1
    assert "at most 1.0e-12" in printed
    assert "Nothing was kept" in errors
    assert not [*tmp_path.iterdir()]


def test_many_photos_are_sampled_over_the_folder(tmp_path):
    from tfdeit.cli.export import load_images

    for number in range(10):
        Image.new("RGB", (40, 40), (25 * number, 0, 0)).save(tmp_path / f"{number}.png")
    processor = AutoImageProcessor.from_pretrained(MODEL)
    found = load_images(processor, str(tmp_path), 4)
    expected = [processor(tmp_path / f"{number}.png", return_tensors="np").pixel_values[0] for number in (0, 3, 6, 9)]
    np.testing.assert_array_equal(found, expected)


def test_documentation_names_every_format_and_dtype():
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: tuple(dtypes.split(", ")) for name, dtypes in rows} == {n: row.dtypes for n, row in FORMATS.items()}
