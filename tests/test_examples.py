"""The examples run as written."""

import io
import json
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from PIL import Image

import tfdeit


@pytest.mark.slow
def test_train_cifar10(tmp_path, rng):
    """Two classes that a few steps can tell apart: dark and bright."""
    data, out = tmp_path / "data.zip", tmp_path / "out"
    with zipfile.ZipFile(data, "w") as archive:
        for split, count in (("train", 64), ("test", 16)):
            for label, name in enumerate(("dark", "bright")):
                for i in range(count):
                    buffer = io.BytesIO()
                    pixels = rng.integers(128 * label, 128 * label + 128, (32, 32, 3), "uint8")
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    archive.writestr(f"{split}/{name}/{i:04}.jpg", buffer.getvalue())
    script = ROOT / "examples" / "train_cifar10.py"
    options = ["--data", data, "--out", out, "--epochs", "4", "--batch-size", "16"]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["test_accuracy"] > 0.9
    assert result["test_images"] == 32
    assert tfdeit.AutoImageProcessor.from_pretrained(out).crop_size == {"height": 32, "width": 32}


@pytest.mark.slow
def test_distil_cifar10(tmp_path, rng):
    for split, count in (("train", 40), ("test", 6)):
        for label, name in enumerate(("dark", "bright")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(128 * label, 128 * label + 128, (32, 32, 3), "uint8")
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    script, out = ROOT / "examples" / "distil_cifar10.py", tmp_path / "out"
    options = [
        "--data",
        tmp_path / "data",
        "--out",
        out,
        "--teacher-epochs",
        "4",
        "--epochs",
        "14",
        "--batch-size",
        "16",
    ]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"teacher_accuracy", "val_accuracy", "ema_val_accuracy"}
    assert result["val_accuracy"] > 0.8
    student = tfdeit.TFAutoModelForImageClassification.from_pretrained(out / "student" / "model")
    assert student.config.id2label == {0: "bright", 1: "dark"}
