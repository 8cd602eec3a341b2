"""Whole runs of `tfdeit train` as subprocesses: killed, resumed, stopped, diverged, and shared among workers."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from safetensors.numpy import load_file

import tfdeit
from tfdeit.config import DeiTConfig
from tfdeit.network.models import TFDeiTForImageClassificationWithTeacher
from tfdeit.preprocessing.processors import protocol_processor
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.run import Run, train
from tfdeit.training.tasks import Classification

KILLS = int(os.environ.get("TFDEIT_KILLS", "0"))  # how often to kill in each test of that; 0 for a few times
QUIET = {"auto_augment": "none", "mixup": 0, "cutmix": 0, "reprob": 0, "drop_path": 0, "repeats": 1, "ema": 0.9}
QUIET |= {"epochs": 6, "batch_size": 4, "lr": 1e-3, "lr_batch": 0, "clip": 1.0, "jit": "false"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Dark and bright images: 24 to train on, 6 to evaluate on."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (folder / name).mkdir()
        for i in range(15):
            pixels = rng.integers(128 * label, 128 * label + 128, (40, 48, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random micro DeiT, with both heads."""
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = DeiTConfig(**sizes, image_size=32, patch_size=8, encoder_stride=8, id2label=["bright", "dark"])
    TFDeiTForImageClassificationWithTeacher(config).save_pretrained(folder)
    protocol_processor("fb", 32).save_pretrained(folder)
    return folder


def start(photos, model, out, *options, env=None, recipe="finetune", **fields):
    settings = [f"--set={name}={value}" for name, value in (QUIET | fields).items()]
    command = [sys.executable, "-m", "tfdeit", "train", "--recipe", recipe, "--data", photos, "--model", model]
    return subprocess.Popen(
        [*command, "--out", out, *settings, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == status, output
    return output


def wait_for_step(process, out, step):
    """Waits until the checkpoint of a step, or a later one, is there."""
    while process.poll() is None:
        if max((int(path.stem[5:]) for path in out.glob("checkpoints/step-*")), default=0) >= step:
            return
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


def largest_difference(one, other):
    names = ("model", "model_ema")
    one, other = ({name: load_file(run / name / "model.safetensors") for name in names} for run in (one, other))
    return max(np.abs(one[name][key] - other[name][key]).max() for name in names for key in one[name])


@pytest.fixture(scope="module")
def undisturbed(photos, model, tmp_path_factory):
    """A run to the end, in whose random draws everything takes part."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(photos, model, out, **NOISY))
    return out


NOISY = {"auto_augment": "rand-m6-mstd0.5-inc1", "mixup": 0.8, "cutmix": 1.0, "drop_path": 0.2, "dropout": 0.1}
NOISY |= {"save_every": 1, "accumulation": 2}


def test_a_newcomers_photos(photos, tmp_path):
    """The README's commands, on a folder with a broken file."""
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/dark/broken.png").write_text("no image")
    out = tmp_path / "run"
    output = finish(start(tmp_path / "photos", "deit_micro_cifar10", out, epochs=4, lr=3e-4, auto_augment="none"))
    assert "a fifth of each class is taken" in output
    assert "newly initialised: cls_classifier.bias (10 instead of 2)" in output
    assert "skipped" in output
    assert "broken.png: not an image" in output
    output = finish(start(tmp_path / "photos", "deit_micro_cifar10", tmp_path / "strict", on_error="raise"), status=2)
    assert "dark/broken.png: not an image" in output
    assert "Traceback" not in output
    command = [sys.executable, "-m", "tfdeit", "predict", photos, "--model", out / "model", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    predictions = [json.loads(line) for line in done.stdout.splitlines()]
    right = [row["predictions"][0]["label"] == Path(row["path"]).parent.name for row in predictions]
    assert len(right) == 30
    assert sum(right) > 26
    with Image.open(out / "curves.png") as curves:
        assert curves.width > 100
    assert (out / "history.csv").read_text().count("\n") == 5
    events, tags = [str(path) for path in (out / "tensorboard").iterdir()], set()
    for record in tf.data.TFRecordDataset(events):
        event = tf.compat.v1.Event.FromString(record.numpy())
        tags |= {value.tag for value in event.summary.value}
    assert {"train/loss", "train/images_per_second", "epoch/val_accuracy"} <= tags


def test_a_killed_run_ends_with_the_same_weights(photos, model, undisturbed, tmp_path):
    out, chance, kills = tmp_path / "killed", random.Random(0), KILLS or 3
    for kill in range(kills):
        process = start(photos, model, out, "--resume", **NOISY)
        wait_for_step(process, out, chance.randint(1 + 30 * kill // kills, 1 + 30 * (kill + 1) // kills))
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.communicate()
        for path in out.glob("checkpoints/step-*"):
            load_file(path)  # complete
    assert not (out / "model").exists()
    finish(start(photos, model, out, "--resume", **NOISY))
    assert largest_difference(out, undisturbed) == 0
    assert (out / "history.csv").read_text() == (undisturbed / "history.csv").read_text()
    assert not list(out.glob("checkpoints/.saving-*"))


def test_sigterm_saves_and_exits(photos, model, undisturbed, tmp_path):
    out = tmp_path / "stopped"
    process = start(photos, model, out, **{**NOISY, "save_every": 2})
    wait_for_step(process, out, 2)
    process.send_signal(signal.SIGTERM)
    assert "go on with" in finish(process)
    assert not (out / "model").exists()
    settings = json.loads((out / "arguments.json").read_text())
    assert settings["model"] == str(model)
    command = [sys.executable, "-m", "tfdeit", "train", "--out", out, "--resume"]  # the rest is known
    subprocess.run(command, check=True, capture_output=True)
    assert largest_difference(out, undisturbed) == 0
    classifier = tfdeit.TFAutoModelForImageClassification.from_pretrained(out / "model_ema")
    assert classifier.config.id2label == {0: "bright", 1: "dark"}


def test_sigterm_in_an_evaluation(photos, model, undisturbed, tmp_path, monkeypatch):
    """The evaluation is given up, and is the first thing that the resumed run does."""
    recipe = TrainRecipe.from_toml(undisturbed / "recipe.toml")
    run, out = Run(str(photos), str(model)), tmp_path / "run"
    evaluate, kept = Classification.evaluate, signal.getsignal(signal.SIGTERM)

    def signalled(self, model, pipeline, on_batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, model, pipeline, on_batch)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "evaluate", signalled)
        assert not train(recipe, run, out)
    assert signal.getsignal(signal.SIGTERM) == kept
    assert not (out / "history.csv").exists()
    assert train(recipe, run, out, resume=True)
    assert largest_difference(out, undisturbed) == 0
    assert (out / "history.csv").read_text() == (undisturbed / "history.csv").read_text()


def test_what_cannot_be(photos, model, tmp_path):
    """Each is said before anything is trained, on stderr, with status 2."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used/recipe.toml").write_text("epochs = 3")
    cases = {
        ("--recipe=deit_distill_hard",): "Expected a teacher",
        ("--teacher", model): "Expected a recipe that distils",
        ("--set=epochs=0",): "Expected epochs to be above 0",
        ("--set=acumulation=2",): "Did you mean 'accumulation'",
        ("--model", "deit_tiny_patch16"): "deit_tiny_patch16",
        ("--data", tmp_path / "absent"): "absent, which does not exist",
        ("--out", tmp_path / "used"): "which already holds one",
    }
    for options, message in cases.items():
        output = finish(start(photos, model, tmp_path / "run", *options), status=2)
        assert message in output
        assert "Traceback" not in output


def test_a_loss_that_is_not_finite_stops(photos, model, tmp_path):
    out = tmp_path / "diverged"
    output = finish(start(photos, model, out, lr=1e30, clip=0, warmup_epochs=1.5, warmup_lr=0), status=1)
    assert "Expected a finite loss. Received: nan at step" in output
    assert output.count(".png") == 4
    assert "The last good checkpoint: " in output
    assert not (out / "model").exists()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def run_workers(photos, model, out, *options, kill_at=None, **fields):
    """Runs two workers, killing the second at a step; returns their exit statuses."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
    workers = [start(photos, model, out, *options, env={"TF_CONFIG": json.dumps(t)}, **fields) for t in tasks]
    try:
        if kill_at:
            wait_for_step(workers[0], out, kill_at)
            workers[1].kill()
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    print(*outputs, sep="\n")
    return [worker.returncode for worker in workers]


def test_two_workers_are_one(photos, model, tmp_path):
    """Also after one of them was killed at a random step, and both were started again."""
    fields = {"save_every": 1, "lr": 1e-4, "epochs": 3}
    finish(start(photos, model, tmp_path / "one", **fields))
    assert run_workers(photos, model, tmp_path / "two", **fields) == [0, 0]
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-6

    out, chance, kills = tmp_path / "killed", random.Random(0), KILLS or 1
    for kill in range(kills):
        step = chance.randint(1 + 15 * kill // kills, 1 + 15 * (kill + 1) // kills)
        assert 0 not in run_workers(photos, model, out, "--resume", kill_at=step, **fields)
        for path in out.glob("checkpoints/step-*"):
            load_file(path)  # complete
        assert not (out / "model").exists()
    assert run_workers(photos, model, out, "--resume", **fields) == [0, 0]
    assert largest_difference(tmp_path / "one", out) < 1e-6
