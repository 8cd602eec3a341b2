"""Models to be exported, what they must answer, programs that are run, and the guide."""

import subprocess

import numpy as np
import sizes
from conftest import ROOT

import tfdeit
from tfdeit.inference.classifier import softmax
from tfdeit.preprocessing.processors import DeiTImageProcessor

MICRO = sizes.MICRO | {"num_hidden_layers": 2, "num_labels": 7}
PROCESSOR = DeiTImageProcessor(size={"shortest_edge": 36}, crop_size=32)


def make(cls=tfdeit.TFViTForImageClassification, **options):
    """A micro model whose every variable is random."""
    model = cls(cls.config_class(**{**MICRO, **options}))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


def answers(model, processor, images, top_k=5):
    probabilities = softmax(model.predict_on_batch(processor(images).pixel_values).logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return best, np.take_along_axis(probabilities, best, axis=1)


def check(outputs, expected):
    indices, probabilities = expected
    assert {*np.ravel(outputs["status"])} == {b"ok"}
    assert np.array_equal(outputs["indices"], indices)
    assert np.abs(outputs["probabilities"] - probabilities).max() <= 1e-5


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(language):
    """The code in one language of the guide to serving."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split(f"```{language}\n")[1:]]
