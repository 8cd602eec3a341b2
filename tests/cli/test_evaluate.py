"""`tfdeit evaluate` as a user calls it: in this process, and once as another that is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfdeit
from tfdeit.cli import evaluate as evaluate_command
from tfdeit.cli.main import main
from tfdeit.evaluation import report as evaluation_report
from tfdeit.evaluation import state as evaluation_state
from tfdeit.evaluation.report import matching_protocols, published
from tfdeit.preprocessing.processors import protocol_processor

LABELS = ["cat", "dog", "bird", "fish", "ant", "bee"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny checkpoint of random weights."""
    directory = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = tfdeit.DeiTConfig(**sizes, image_size=32, patch_size=8, id2label=LABELS, initializer_range=0.5)
    tfdeit.TFDeiTForImageClassificationWithTeacher(config).save_pretrained(directory)
    tfdeit.DeiTImageProcessor(size=36, crop_size=32).save_pretrained(directory)
    return directory


@pytest.fixture
def photos(tmp_path, rng):
    """24 images: four of each class, whose folders sort otherwise than the model's labels."""
    for i in range(24):
        path = tmp_path / "photos" / LABELS[i % 6].title() / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), "uint8")).save(path)
    return tmp_path / "photos"


def run(*args, status=0):
    assert main(["evaluate", *map(str, args)]) == status


def expected(model_dir, folder, head="logits", protocol=None):
    """Right answers and cross-entropy by the Python interface."""
    model = tfdeit.TFDeiTForImageClassificationWithTeacher.from_pretrained(model_dir)
    processor = tfdeit.AutoImageProcessor.from_pretrained(model_dir)
    if protocol:
        processor = processor.with_protocol(protocol, 32)
    paths = sorted(folder.rglob("*.png"))
    logits = np.asarray(getattr(model(processor([str(path) for path in paths]).pixel_values), head), "float64")
    labels = np.array([LABELS.index(path.parent.name.lower()) for path in paths])
    own = logits[np.arange(len(labels)), labels]
    return (logits.argmax(axis=1) == labels).mean(), (np.log(np.exp(logits).sum(axis=1)) - own).mean()


@pytest.mark.parametrize("options", [{}, {"head": "distillation", "protocol": "vit"}])
def test_figures_equal_the_python_interface(model_dir, photos, capsys, options):
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    run("--model", model_dir, "--data", photos, "--batch-size", 7, "--json", *flags)
    found = json.loads(capsys.readouterr().out)
    options = options | ({"head": "distillation_logits"} if "head" in options else {})
    top1, loss = expected(model_dir, photos, **options)
    assert (found["images"], found["failed"], found["published"]) == (24, 0, None)
    assert found["top1"] == pytest.approx(top1)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["images_per_second"] > 0
    assert [row["label"] for row in found["classes"]] == LABELS
    assert [row["count"] for row in found["classes"]] == [4] * 6


def test_tables_and_charts(model_dir, photos, tmp_path, capsys):
    for folder in ("Bee", "Ant"):
        for path in (photos / folder).iterdir():
            path.unlink()
        (photos / folder).rmdir()
    run("--model", model_dir, "--data", photos, "-o", tmp_path / "out")
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["images"] == 16
    assert f"{report['top1']:.2%}" in printed
    assert f"{report['ece']:.4f}" in printed
    assert [line.split()[0] for line in printed.splitlines()[-4:]] == LABELS[:4]
    with (tmp_path / "out" / "classes.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert sum(int(row["count"]) for row in rows.values()) == 16
    right = sum(float(row["recall"] or 0) * int(row["count"]) for row in rows.values())
    assert right == pytest.approx(report["top1"] * 16)
    with (tmp_path / "out" / "confusions.csv").open() as file:
        wrong = list(csv.DictReader(file))
    assert sum(int(row["images"]) for row in wrong) == pytest.approx(16 - right)
    assert all(row["class"] != row["answer"] for row in wrong)
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / "out" / name) as chart:
            assert len(chart.convert("RGB").getcolors(1 << 24)) > 20


def test_broken_images_are_named_and_the_rest_is_evaluated(model_dir, photos, tmp_path, capsys):
    for name in ("Cat/00.png", "Dog/01.png"):
        (photos / name).write_text("no image")
    run("--model", model_dir, "--data", photos, "--json", "-o", tmp_path / "out", status=1)
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["images"], found["failed"]) == (22, 2)
    lines = printed.err.splitlines()
    assert len(lines) == 3
    assert f"{photos}/Cat/00.png: not an image" in lines[0]
    assert "2 of 24 images could not be read" in lines[2]
    with (tmp_path / "out" / "failures.csv").open() as file:
        assert [row["index"] for row in csv.DictReader(file)] == ["12", "16"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_broken_image_whose_name_is_not_utf8_is_named(model_dir, photos, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1
    (photos / "Cat" / name).write_text("no image")
    run("--model", model_dir, "--data", photos, "-o", tmp_path / "out", status=1)
    with (tmp_path / "out" / "failures.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert [Path(row["name"]).name for row in csv.DictReader(file)] == [name]


def test_an_interrupted_evaluation_goes_on(model_dir, photos, tmp_path, monkeypatch):
    (photos / "Ant/04.png").write_text("no image")
    common = ["--model", model_dir, "--data", photos, "--batch-size", 5, "-o"]
    run(*common, tmp_path / "whole", status=1)

    def interrupt(self, images):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_command.Stopwatch, "update", interrupt)
        patch.setattr(evaluation_state, "SAVE_SECONDS", -1)
        run(*common, tmp_path / "parts", status=130)
        run(*common, tmp_path / "parts", "--resume", status=130)
    with np.load(tmp_path / "parts" / "state.npz") as arrays:
        assert json.loads(str(arrays["about"]))["step"] == 2
    assert not (tmp_path / "parts" / "evaluation.json").exists()
    for _ in range(2):  # what is finished stays
        run(*common, tmp_path / "parts", "--resume", status=1)
        for name in ("evaluation.json", "classes.csv", "confusions.csv", "failures.csv", "confusion.png"):
            assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_another_evaluation_is_not_gone_on_with(model_dir, photos, tmp_path, capsys):
    common = ["--model", model_dir, "--data", photos, "--batch-size", 5, "-o"]
    run(*common, tmp_path / "parts")
    capsys.readouterr()
    others = [
        ("--model", "deit_micro_cifar10", "model"),
        ("--batch-size", 6, "batch size"),
        ("--protocol", "fb", "preprocessing"),
        ("--head", "class", "head"),
    ]
    for option, value, message in others:
        run(*common, tmp_path / "parts", "--resume", option, value, status=2)
        error = capsys.readouterr().err
        assert "was begun with: " in error or "unknown class" in error
        assert message in error
    (photos / "Ant/04.png").unlink()
    run(*common, tmp_path / "parts", "--resume", status=2)
    assert "data 24 images" in capsys.readouterr().err
    run(*common, tmp_path / "parts", status=2)
    assert "Expected a new or empty directory" in capsys.readouterr().err
    for content in (b"", b"damaged", (tmp_path / "parts" / "state.npz").read_bytes()[:-30]):
        (tmp_path / "parts" / "state.npz").write_bytes(content)
        run(*common, tmp_path / "parts", "--resume", status=2)
        assert "Expected the state of an evaluation" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(model_dir, photos, tmp_path):
    """kill -9 while it saves after every batch; the state on the disk is whole whenever that happens."""
    common = ["evaluate", "--model", str(model_dir), "--data", str(photos), "--batch-size", "1", "-o"]
    assert main([*common, str(tmp_path / "whole")]) == 0
    slow = "import sys, time\nfrom tfdeit.cli.main import main\nfrom tfdeit.evaluation import state as e\n"
    slow += "e.SAVE_SECONDS, state, old = 0, e.EvaluationState, e.EvaluationState.update\n"
    slow += "state.update = lambda *args: (old(*args), time.sleep(0.2)); main(sys.argv[1:])"
    state = tmp_path / "parts" / "state.npz"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", slow, *common, str(tmp_path / "parts"), "--resume"])
        begun, before = time.monotonic(), state.stat().st_mtime_ns if state.exists() else 0
        while not (state.exists() and state.stat().st_mtime_ns > before) and time.monotonic() - begun < 120:
            time.sleep(0.05)
        time.sleep(0.7)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with np.load(state) as arrays:
        assert 2 <= json.loads(str(arrays["about"]))["step"] < 24
    assert main([*common, str(tmp_path / "parts"), "--resume"]) == 0
    for name in ("evaluation.json", "classes.csv", "confusions.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_embedded_checkpoint_knows_its_photos(photos_dir, tmp_path, capsys):
    """The photos of the README, by the names of their files."""
    names = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
    for path in photos_dir.iterdir():
        if path.stem in names:
            (tmp_path / "data" / path.stem).mkdir(parents=True)
            (tmp_path / "data" / path.stem / path.name).symlink_to(path)
    run("--data", tmp_path / "data", "-o", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["images"] >= 1
    assert report["top1"] == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "{}/none"], "Received: {}/none, which does not exist"),
        (["--data", "{}/empty"], "Expected at least one image"),
        (["--data", "{}/photos", "--split", "val"], "Expected no split, as the folders"),
        (["--data", "{}/photos", "--model", "no_such_model"], "Received: 'no_such_model'"),
        (["--data", "{}/photos", "--model", "deit_micro_cifar10"], "2 unknown classes out of 6: 'Ant', 'Bee'"),
        (["--data", "{}/photos", "--resume"], "Expected --output with --resume"),
    ],
)
def test_errors_say_what_to_do(photos, args, message, capsys):
    parent = photos.parent
    (parent / "empty").mkdir()
    if "deit_micro_cifar10" in args:
        (photos / "Fish").rename(photos / "Frog")
    run(*(arg.format(parent) for arg in args), status=2)
    error = capsys.readouterr().err
    assert error.startswith("tfdeit evaluate: error: ")
    assert message.format(parent) in error
    assert len(error.splitlines()) <= 2


def test_published_accuracies():
    row = tfdeit.zoo.find("deit_tiny_patch16_224")
    figures = {"top1": 0.722, "top5": 0.911, "protocol": "fb", "data": "ImageNet-1k, 50000 images"}
    assert published("deit_tiny_patch16_224", row.config()) == pytest.approx(figures)
    assert published("facebook/deit-tiny-patch16-224", row.config())["top1"] == pytest.approx(0.722)
    assert published("deit_tiny_patch16_224", row.config(id2label=["a", "b"])) is None
    ported = row.config(extra={"tfdeit_provenance": {"checkpoint": row.to_dict()}})
    assert published("some/directory", ported) == pytest.approx(figures)
    assert published("some/directory", row.config()) is None
    assert published("vit_large_patch16_224", tfdeit.zoo.find("vit_large_patch16_224").config()) is None


def test_protocols_are_recognised():
    found = {name: matching_protocols(protocol_processor(name, 224), 224) for name in ("fb", "timm", "hf", "vit")}
    assert found == {"fb": ["fb", "mmpretrain"], "timm": ["timm"], "hf": ["hf"], "vit": ["vit"]}
    assert matching_protocols(tfdeit.DeiTImageProcessor(), 224) == ["hf"]
    assert matching_protocols(tfdeit.ViTImageProcessor(), 224) == ["vit"]  # whose files say nothing of a crop
    assert matching_protocols(tfdeit.DeiTImageProcessor(size=300), 224) == []


@pytest.mark.slow
def test_another_protocol_than_the_published_one_is_said(model_dir, photos, capsys, monkeypatch):
    row = {"top1": 0.5, "top5": 0.9, "protocol": "fb", "data": "ImageNet-1k, 50000 images"}
    monkeypatch.setattr(evaluation_report, "published", lambda name, config: row)
    run("--model", model_dir, "--data", photos)
    printed = capsys.readouterr()
    assert "50.00%" in printed.out
    assert "--protocol fb compares" in printed.err
    run("--model", model_dir, "--data", photos, "--protocol", "fb")
    assert not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_no_log_of_tensorflow(model_dir, photos, tmp_path, backend):
    """Not from records either, which TensorFlow writes."""
    if backend == "jax":
        pytest.importorskip("jax", reason="pip install tfdeit[jax]")
    assert main(["pack", str(photos), "-o", str(tmp_path / "packed")]) == 0
    command = [sys.executable, "-m", "tfdeit", "evaluate", "--model", str(model_dir), "--data"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [*command, str(tmp_path / "packed"), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | {"KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    top1, loss = expected(model_dir, photos)
    found = json.loads(done.stdout)
    assert found["top1"] == pytest.approx(top1)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
