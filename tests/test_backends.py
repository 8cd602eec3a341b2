"""Every Keras backend against transformers, each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles import answer, random_model, saved, torch
from sizes import MICRO


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A checkpoint of transformers, what it answers, and the losses of three steps of its training."""
    directory = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(0)
    pixel_values, larger = (rng.normal(size=(4, *size, 3)).astype("float32") for size in ((32, 32), (48, 32)))
    labels = np.array([0, 1, 2, 3])
    model = random_model("DeiTForImageClassificationWithTeacher", **MICRO)
    saved(model, directory / "model")
    expected = answer(model, pixel_values, output_hidden_states=True, output_attentions=True)
    expected["larger_logits"] = answer(model, larger, interpolate_pos_encoding=True)["logits"]

    losses, optimizer = [], torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        logits = model(torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy())).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected |= {"pixel_values": pixel_values, "labels": labels, "larger": larger, "losses": losses}
    np.savez(directory / "expected.npz", **expected)
    return directory


@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "torch"))]
)
def test_backend(backend, directory):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: pip install tfdeit[jax,parity]")
    script = Path(__file__).with_name("backend_check.py")
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script, directory], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["backend"] == backend
    assert max(result["differences"].values()) <= 1e-5, result
    assert 0 < result["bfloat16"] < 0.05
    np.testing.assert_allclose(result["losses"], np.load(directory / "expected.npz")["losses"], atol=1e-5)
