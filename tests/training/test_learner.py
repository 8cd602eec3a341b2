"""The training step in stock `fit`, and on two devices."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdeit.config import DeiTConfig
from tfdeit.network.models import TFDeiTForImageClassificationWithTeacher
from tfdeit.training.learner import Learner
from tfdeit.training.losses import DistillationLoss, SoftCrossEntropy
from tfdeit.training.optimizer import AdamW
from tfdeit.training.tasks import Classification
from tfdeit.training.teacher import Teacher

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"image_size": 32, "patch_size": 8, "encoder_stride": 8, "num_labels": 3}


def make(teach=False, rate=1e-3, **options):
    student = TFDeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES))
    task = Classification(SoftCrossEntropy())
    if teach:
        teacher = Teacher(lambda pixels: tf.reduce_mean(pixels, (1, 2)), None, lambda pixels: pixels)
        teacher.prepare(list("abc"), (32, 32), np.zeros(3), np.ones(3))
        task = Classification(SoftCrossEntropy(), DistillationLoss(SoftCrossEntropy(), "hard"), teacher)
    learner = Learner(student, task, **options)
    learner.compile(AdamW(rate))
    return learner


def batches(rng, count=4, size=8):
    """Images whose class is their strongest colour."""
    labels = rng.integers(0, 3, (count * size,)).astype("int32")
    pixels = rng.normal(size=(count * size, 32, 32, 3)).astype("float32") + 2 * np.eye(3)[labels][:, None, None]
    return tf.data.Dataset.from_tensor_slices((pixels.astype("float32"), labels)).batch(size, drop_remainder=True)


def test_fit_distils(rng):
    learner, data = make(teach=True, rate=3e-3, ema=0.5, clip=1.0, jit=False), batches(rng)
    learned = learner.fit(data, epochs=4, verbose=0, shuffle=False, validation_data=data).history
    assert learned["loss"][-1] < 0.5 * learned["loss"][0]
    assert learned["val_accuracy"][-1] > 0.9
    assert int(learner.optimizer.iterations) == 16
    averages = np.concatenate([average.numpy().ravel() for average in learner.averages])
    weights = np.concatenate([variable.numpy().ravel() for variable in learner.student.trainable_variables])
    assert 0 < np.abs(averages - weights).max() < 0.1
    assert {id(v) for v in learner.trainable_variables} == {id(v) for v in learner.student.trainable_variables}


@pytest.mark.slow
def test_bfloat16_and_gradient_checkpointing(rng):
    data, losses = batches(rng), {}
    for policy, checkpointing in (("float32", False), ("float32", True), ("mixed_bfloat16", False)):
        keras.utils.set_random_seed(1)
        student = TFDeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES), dtype=policy)
        student.gradient_checkpointing_enable(checkpointing)
        learner = Learner(student, Classification(SoftCrossEntropy()), jit=False)
        learner.compile(AdamW(1e-3))
        losses[policy, checkpointing] = [float(learner.step(*batch)["loss"]) for batch in data]
        assert {variable.dtype for variable in student.trainable_variables} == {"float32"}
    expected = losses["float32", False]
    assert losses["float32", True] == pytest.approx(expected, rel=1e-5)
    assert losses["mixed_bfloat16", False] == pytest.approx(expected, rel=0.05)


def test_a_batch_that_cannot_be_parted(rng):
    learner = make(accumulation=3, jit=False)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        learner.step(tf.zeros((8, 32, 32, 3)), tf.zeros((8,), tf.int32))


ON_TWO_DEVICES = """
import keras, numpy as np, sys, tensorflow as tf
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
sys.path.insert(0, {tests!r})
from test_learner import SIZES, batches, make
from tfdeit.training.workers import Workers

SIZES["num_hidden_layers"] = 1  # most of the time is tracing
learners = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        learners.append(make(teach=True, accumulation=2, clip=0.5, ema=0.9, jit=False))
one, both = learners
data = batches(np.random.default_rng(0))
step = Workers(both.distribute_strategy).distributed(both)
for batch in data:
    alone, shared = one.step(*batch), step(batch, False)
    assert np.allclose(alone["loss"], shared["loss"], atol=1e-6)
    assert np.allclose(alone["gradient_norm"], shared["gradient_norm"], rtol=1e-5)
for learner in learners:
    history = learner.fit(data, epochs=2, verbose=0, shuffle=False)
print(max(np.abs(a.numpy() - b.numpy()).max() for a, b in
          zip(one.student.weights + one.averages, both.student.weights + both.averages)))
"""


@pytest.mark.slow
def test_two_devices_are_one():
    """The own loop, then stock `fit`, on two virtual CPUs."""
    code = ON_TWO_DEVICES.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 1e-5  # AdamW divides small differences of gradients by themselves
