"""The examples run as written."""

import io
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import tfdeit
from tfdeit.exports.saved_model.export import export_saved_model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of two classes that a few steps can tell apart."""
    folder, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(128 * label, 128 * label + 128, (40, 48, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example in this process, and returns what it prints."""

    def run(name, *arguments):
        script = ROOT / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def in_a_process(name, *arguments):
    """Runs an example in a process of its own, and returns what it prints."""
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples_are_short():
    """Those that show one thing; the others run elsewhere."""
    lengths = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert {name for name, length in lengths.items() if length >= 60} == {
        "score_with_beam",
        "distil_cifar10",
        "train_cifar10",
    }


def test_predict(run, photos_dir):
    lines = run("predict", *sorted(photos_dir.glob("*.png"))).splitlines()
    assert len(lines) == len(list(photos_dir.glob("*.png")))
    assert any("cat.png: cat " in line for line in lines)


def test_nearest_neighbours(run, photos):
    lines = run("nearest_neighbours", photos / "dark/3.png", photos, "--count", 10).splitlines()
    assert lines[0] == f"1.000  {photos / 'dark/3.png'}"
    assert all("dark" in line for line in lines)


@pytest.mark.slow
def test_linear_probe(run, photos, tmp_path):
    with pytest.warns(UserWarning, match="newly initialised"):
        output = run("linear_probe", photos, "--out", tmp_path / "probe", "--epochs", 40)
    assert "accuracy on images held out: 100.0%" in output
    predicted = tfdeit.inference_model(tmp_path / "probe", photos / "bright/0.png")
    assert predicted["pred_class"] == "bright"


@pytest.mark.slow
def test_evaluate_on_device(run, tmp_path, photos_dir):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for name in names:  # the same cat in each
        (tmp_path / name).mkdir()
        shutil.copy(photos_dir / "cat.png", tmp_path / name)
    assert "accuracy 10.00% of 10 images" in run("evaluate_on_device", tmp_path)


@pytest.mark.slow
def test_finetune_folder_at_another_size(run, photos, tmp_path):
    with pytest.raises(SystemExit) as end:
        run("finetune_folder", photos, "--out", tmp_path, "--epochs", 1, "--batch-size", 8, "--image-size", 48)
    assert not end.value.code
    assert tfdeit.DeiTConfig.from_pretrained(tmp_path / "model").image_size == 48
    assert (tmp_path / "curves.png").exists()


@pytest.mark.slow
def test_distil_application(run, photos, tmp_path):
    options = ["--application", "MobileNetV3Small", "--epochs", 1, "--batch-size", 8]
    with pytest.warns(UserWarning, match="newly initialised"):
        assert "loss" in run("distil_application", photos, "--out", tmp_path / "student", *options)
    student = tfdeit.TFAutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label == {0: "bright", 1: "dark"}


@pytest.mark.slow
def test_export_and_query(run, photos_dir, tmp_path):
    running_server = pytest.importorskip("running_server")
    model = tfdeit.TFAutoModelForImageClassification.from_pretrained("deit_micro_cifar10")
    export_saved_model(model, tfdeit.AutoImageProcessor.from_pretrained("deit_micro_cifar10"), tmp_path / "served")
    server = running_server.RunningServer(tmp_path / "served", name="served")
    try:
        output = run("export_and_query", photos_dir / "cat.png", "--out", tmp_path / "served", "--url", server.url)
    finally:
        server.close()
    prediction = json.loads(output[output.index("{") :])["predictions"][0]
    assert prediction["classes"][0] == "cat"
    assert prediction["status"] == "ok"


@pytest.mark.slow
def test_jax_backend(photos_dir):
    pytest.importorskip("jax", reason="needs tfdeit[jax]")
    lines = in_a_process("jax_backend", photos_dir / "cat.png").splitlines()
    assert lines[0] == f"{photos_dir / 'cat.png'}: cat"
    losses = [float(line.split()[1]) for line in lines[1:]]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
def test_to_keras_hub(photos_dir, tmp_path):
    pytest.importorskip("keras_hub", reason="needs tfdeit[parity]")
    output = in_a_process("to_keras_hub", photos_dir / "cat.png", "--out", tmp_path)
    assert float(re.search(r"differ by (\S+)", output)[1]) < 1e-4


@pytest.mark.slow
def test_multi_worker(photos, tmp_path):
    settings = {"epochs": 1, "batch_size": 8, "auto_augment": "none"}
    output = in_a_process(
        "multi_worker", photos, "--out", tmp_path, *(f"--set={name}={value}" for name, value in settings.items())
    )
    assert "epoch 1/1" in output
    assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.heavy
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


@pytest.mark.heavy
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
