"""The command line, as a subprocess, on real photos and on bad files."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfdeit
from tfdeit.cli.main import main
from tfdeit.protocols import PROTOCOLS

TFDEIT = Path(sys.executable).with_name("tfdeit")


def run(*args, stdin=None, status=0):
    done = subprocess.run([TFDEIT, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny checkpoint of random weights with three classes."""
    directory = tmp_path_factory.mktemp("model")
    config = tfdeit.DeiTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label=["cat", "dog", "bird"],
        initializer_range=0.5,
    )
    tfdeit.TFDeiTForImageClassificationWithTeacher(config).save_pretrained(directory)
    tfdeit.DeiTImageProcessor(size=36, crop_size=32).save_pretrained(directory)
    return directory


@pytest.fixture
def photos(tmp_path, rng):
    """Folder with a subfolder and files of several formats, among them no images."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "deep/c.WEBP"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), "uint8")).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def expected(model_dir, paths, protocol=None):
    """Probabilities by the Python interface."""
    model = tfdeit.TFDeiTForImageClassificationWithTeacher.from_pretrained(model_dir)
    processor = tfdeit.AutoImageProcessor.from_pretrained(model_dir)
    if protocol:
        processor = processor.with_protocol(protocol, 32)
    logits = np.asarray(model(**processor([str(path) for path in paths])).logits, "float64")
    scores = np.exp(logits)
    return scores / scores.sum(axis=-1, keepdims=True)


def predictions(done):
    return {(line := json.loads(text))["path"]: line["predictions"] for text in done.stdout.splitlines()}


def test_json_equals_the_python_interface(model_dir, photos):
    found = predictions(run("predict", photos, "--model", model_dir, "--json", "--batch-size", "2"))
    done = run("predict", photos / "a.jpg", "--model", model_dir)
    assert len(done.stderr.splitlines()) == 1  # which model it used, and no log of TensorFlow
    paths = [photos / "a.jpg", photos / "b.png", photos / "deep" / "c.WEBP"]
    assert list(found) == [str(path) for path in paths]  # sorted, the subfolder's too, the text file not
    for path, scores in zip(paths, expected(model_dir, paths), strict=True):
        classes = found[str(path)]
        assert [c["index"] for c in classes] == list(np.argsort(-scores))
        assert [c["label"] for c in classes] == [["cat", "dog", "bird"][i] for i in np.argsort(-scores)]
        np.testing.assert_allclose([c["probability"] for c in classes], np.sort(scores)[::-1], atol=1e-5)


def test_csv_text_globs_stdin_and_protocols(model_dir, photos, capsys, monkeypatch):
    def answer(*args, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        assert main(["predict", *map(str, args), "--model", str(model_dir)]) == 0
        return capsys.readouterr()

    rows = list(csv.DictReader(io.StringIO(answer(photos / "*.png", "--csv", "--top-k", "2").out)))
    assert [(row["path"], row["rank"]) for row in rows] == [(str(photos / "b.png"), "1"), (str(photos / "b.png"), "2")]
    best = expected(model_dir, [photos / "b.png"])[0].max()
    assert float(rows[0]["probability"]) == pytest.approx(best, abs=1e-5)

    printed = answer("-", "--top-k", "9", stdin=f"{photos / 'a.jpg'}\n\n{photos / 'b.png'}\n")
    assert len(printed.out.splitlines()) == 2
    assert printed.out.count("%") == 6  # three classes each
    assert "TFDeiTForImageClassificationWithTeacher" in printed.err

    found = json.loads(answer(photos / "a.jpg", "--json", "--protocol", "vit").out)["predictions"]
    scores = expected(model_dir, [photos / "a.jpg"], "vit")[0]
    np.testing.assert_allclose([c["probability"] for c in found], np.sort(scores)[::-1], atol=1e-5)
    assert f"{scores.max():.4f}" != f"{expected(model_dir, [photos / 'a.jpg'])[0].max():.4f}"


def test_unreadable_images_are_named_and_the_rest_is_classified(model_dir, photos):
    data = (photos / "a.jpg").read_bytes()
    bad = {"truncated.jpg": data[: len(data) // 2], "empty.jpg": b"", "text.jpg": b"hello, I am no image"}
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    for name, size in (("dot.png", (1, 1)), ("line.png", (20000, 1)), ("column.png", (1, 20000))):
        Image.new("RGB", size, "red").save(photos / name)
    done = run("predict", photos, photos / "missing.jpg", photos / "*.tiff", "--model", model_dir, "--json", status=1)
    found = predictions(done)
    assert {Path(path).name for path in found} == {"a.jpg", "b.png", "c.WEBP", "dot.png", "line.png", "column.png"}
    errors = [line for line in done.stderr.splitlines() if "M parameters" not in line]
    assert len(errors) == 5
    for name in [*bad, "missing.jpg", "*.tiff"]:
        assert sum(str(photos / name) in line for line in errors) == 1, done.stderr


def test_nothing_to_classify(tmp_path):
    assert "no images found" in run("predict", tmp_path, status=1).stderr
    assert f"{tmp_path}/*.png: no images found" in run("predict", f"{tmp_path}/*.png", status=1).stderr
    assert "no images found" in run("predict", "-", stdin="", status=1).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tell"], "invalid choice: 'tell'"),
        (["predict"], "PATH"),
        (["predict", "x.jpg", "--top-k", "0"], "expected an integer of at least 1, received '0'"),
        (["predict", "x.jpg", "--batch-size", "many"], "expected an integer of at least 1, received 'many'"),
        (["predict", "x.jpg", "--protocol", "best"], "invalid choice: 'best'"),
        (["predict", "x.jpg", "--json", "--csv"], "Expected one of --json and --csv"),
        (["predict", "x.jpg", "--model", "no_such_model"], "Received: 'no_such_model'"),
        (["list", "deit*", "vit*"], "unrecognized arguments"),
        (["info"], "NAME"),
        (["info", "deit_smal_patch16_224"], "Did you mean 'deit_small_patch16_224'"),
    ],
)
def test_wrong_usage_exits_with_2(args, message):
    assert message in run(*args, status=2).stderr


def test_a_checkpoint_without_processor_asks_for_a_protocol(model_dir, photos, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    done = run("predict", photos, "--model", tmp_path, status=2)
    assert "Expected a preprocessor_config.json in" in done.stderr
    assert "--protocol" in done.stderr
    run("predict", photos / "a.jpg", "--model", tmp_path, "--protocol", "fb")


def test_the_reader_may_leave(model_dir, photos):
    command = f"{TFDEIT} predict {photos} --model {model_dir} --batch-size 1 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_the_choices_of_protocol_are_the_processors():
    with pytest.raises(ValueError, match="Expected protocol to be one of") as error:
        tfdeit.ViTImageProcessor().with_protocol("?", 224)
    assert ", ".join(sorted(PROTOCOLS)) in str(error.value)


def test_list():
    rows = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == tfdeit.list_models()
    small = next(row for row in rows if row["hub_id"] == "facebook/deit-small-distilled-patch16-224")
    assert small["params"] == 22436432
    assert (small["top1"], small["accuracy_protocol"], small["sha256"]) == (81.2, "fb", "649709d9")
    lines = run("list", "deit_small*").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *tfdeit.list_models("deit_small*")]
    assert lines[1].split()[1:] == ["224", "22.1", "M", "4.61", "G", "79.9", "95.0", "fb"]
    assert max(map(len, run("list").stdout.splitlines())) <= 120
    assert "Received: 'resnet*', which matches none" in run("list", "resnet*", status=1).stderr


def test_info():
    card = run("info", "facebook/deit-base-distilled-patch16-384").stdout
    for fact in (
        "deit_base_distilled_patch16_384\n",
        "DeiT-base, distilled; https://arxiv.org/abs/2012.12877",
        "384x384 RGB, 16-pixel patches, protocol hf",
        "87.63 M parameters, 55.65 G",
        "85.2% top-1, 97.2% top-5, measured with protocol fb",
        "Apache-2.0",
        "https://huggingface.co/facebook/deit-base-distilled-patch16-384",
        "deit_base_distilled_patch16_384-d0272ac0.pth (sha256 d0272ac0)",
        "inference_model('deit_base_distilled_patch16_384', \"photo.jpg\")",
    ):
        assert fact in card
    card = run("info", "vit_huge_patch14_224_in21k").stdout
    assert "features" in card
    assert "not published" in card
    assert "extract_feat" in card


@pytest.mark.parametrize("command", [["list"], ["info", "deit_tiny_patch16_224"]])
def test_the_zoo_does_not_wait_for_tensorflow(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfdeit", *command], capture_output=True, text=True, check=True
    )
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"tensorflow", "keras", "numpy", "PIL"}


def test_help_does_not_wait_for_tensorflow():
    run("--help")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfdeit", "predict", "--help"], capture_output=True, text=True
    )
    assert "classes per image" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"tensorflow", "keras", "numpy", "PIL", "rich"}
