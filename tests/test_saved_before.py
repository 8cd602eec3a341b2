"""What version 0.1 wrote before its modules moved: a .keras file and a run stopped in the middle of an epoch."""

import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import tfdeit.training.losses
import tfdeit.training.optimizer

SAVED = Path(__file__).with_name("fixtures") / "saved_by_0.1"


def test_a_keras_file_loads():
    assert tfdeit.TFDeiTForImageClassificationWithTeacher  # Keras finds classes that were imported
    model = keras.models.load_model(SAVED / "model.keras")
    x = np.linspace(-2, 2, 2 * 16 * 16 * 3, dtype="float32").reshape(2, 16, 16, 3)
    np.testing.assert_allclose(model.predict(x, verbose=0).logits, np.loadtxt(SAVED / "logits.txt"), atol=1e-5)
    assert type(model.optimizer) is tfdeit.training.optimizer.AdamW
    assert int(model.optimizer.iterations) == 2
    assert type(model.loss) is tfdeit.training.losses.SoftCrossEntropy


@pytest.mark.slow
def test_a_run_goes_on(tmp_path):
    """From step 6 of 12 to the weights that the run reached without stopping, which draws of all kinds take part in."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(128 * label, 128 * label + 128, (20, 24, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i:02}.png")
    shutil.copytree(SAVED / "start", tmp_path / "start")
    shutil.copytree(SAVED / "run", tmp_path / "run")
    command = [sys.executable, "-m", "tfdeit", "train", "--out", "run", "--resume"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/3" not in done.stdout
    assert "epoch 3/3" in done.stdout
    ours, theirs = load_file(tmp_path / "run/model/model.safetensors"), load_file(SAVED / "finished.safetensors")
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)
    assert (tmp_path / "run/history.csv").read_text().count("\n") == 4
