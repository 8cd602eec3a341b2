"""`tfdeit benchmark`: who takes part, what is made of the times, and once everything."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import tfdeit
from tfdeit import benchmark
from tfdeit.benchmark import rounds
from tfdeit.benchmark.contestants import matmul
from tfdeit.cli import benchmark as benchmark_command
from tfdeit.cli.main import main
from tfdeit.presentation.charts import bar_chart


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny checkpoint of random weights."""
    directory = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = tfdeit.DeiTConfig(**sizes, image_size=32, patch_size=8, num_labels=5, initializer_range=0.5)
    tfdeit.TFDeiTForImageClassificationWithTeacher(config).save_pretrained(directory)
    return directory


def test_unknown_names_are_corrected(capsys):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--against", "transformers,open-vino"])
    assert end.value.code == 2
    assert "Received: 'open-vino'. Did you mean 'openvino'?" in capsys.readouterr().err


def test_who_cannot_take_part(monkeypatch):
    assert benchmark.absence("tfdeit", "bfloat16") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "keras" in name or "onnx" in name else name)
    assert benchmark.absence("keras-hub", "float32") == "not installed: pip install keras-hub"
    assert benchmark.absence("onnxruntime", "float32") == "not installed: pip install onnxruntime onnx"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"transformers": "5.0.1"}.get(name, "1.0"))
    assert benchmark.absence("transformers-tf", "float32") == "not installed: pip install 'transformers<5'"
    assert benchmark.absence("transformers", "float32") is None
    assert benchmark.absence("onnxruntime", "bfloat16") == "has no bfloat16, only float32 and float16"


def test_what_cannot_be_measured_is_said(model_dir, tmp_path, capsys):
    for arguments, reason in [
        (["--model", tmp_path], "config.json"),
        (["--model", model_dir, "--chart", "speed.txt"], "Expected --chart to name a picture"),
    ]:
        assert main(["benchmark", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("tfdeit benchmark: error: ")
        assert reason in error
        assert "Traceback" not in error


def test_a_process_that_fails_says_why():
    with rounds.workers() as start:
        worker = start()
        with pytest.raises(rounds.WorkerError, match="nobody"):
            worker.ask("load", contestant="nobody", folder=".", dtype="float32")
        worker._process.kill()
        with pytest.raises(rounds.WorkerError, match="killed"):
            worker.ask("matmul", dtype="float32", seconds=1)


class Timed:
    """A worker whose turns take known times: the other is twice as slow, in rounds that get slower and slower."""

    started = 0

    def __init__(self):
        self.speed = [0.1, 0.2, None][Timed.started]
        Timed.started += 1
        self.turns = 0

    def ask(self, action, method=None, batch=None, **order):
        if method == "turn":
            self.turns += 1
            return {"seconds": self.speed * batch * 10**self.turns}
        if method == "first":
            return {"part": min(batch, 2), "image_bytes": 7, "logits": [[self.speed]]}
        return {"load_seconds": 3.0, "flops": 1e9 * self.turns + 1e9, "peak_bytes": 5}

    def close(self):
        pass


def test_medians_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(rounds, "Worker", Timed)
    done, absent = [], []
    names = ["tfdeit", "tfdeit-predict", "onnxruntime"]
    plan = rounds.Plan(names, "", "bfloat16", macs=500_000, batches=[1, 4], rounds=3, seconds=1)
    rows = rounds.measure(plan, lambda *failure: absent.append(failure), done.append)
    assert absent == [("onnxruntime", benchmark.absence("onnxruntime", "bfloat16"))]
    assert sum(done) == 12
    assert [(row["contestant"], row["batch"]) for row in rows] == [(n, b) for b in (1, 4) for n in names[:2]]
    assert [row["ratio"] for row in rows] == pytest.approx([1, 0.5, 1, 0.5])
    # Turns alternate between the batches: 1, 3, 5 are of the first. Their median is the third.
    assert rows[0]["milliseconds"] == pytest.approx(1e3 * 0.1 * 10**3)
    assert rows[0]["images_per_second"] == pytest.approx(1 / 100)
    assert rows[0]["gflops"] == pytest.approx(1e6 / 100 / 1e9)
    assert rows[0]["peak_share"] == pytest.approx(1e6 / 100 / 1e9)
    assert [row["split"] for row in rows] == [None, None, 2, 2]
    assert rows[1]["difference"] == pytest.approx(0.1)

    about = {"random": False, "class": "TFViT", "parameters": 2e6, "macs": 5e5, "backend": "jax"}
    benchmark_command.print_tables("name", about, rows)
    text = capsys.readouterr().out
    assert "bfloat16; the matrix product reaches 1 GFLOP/s" in text
    assert re.search(r"^tfdeit-predict +4 .* 0\.50 ", text, re.MULTILINE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_matrix_product_of_every_dtype(dtype):
    product, operations = matmul(dtype)
    assert np.asarray(product()).size == 1
    assert operations == 2 * 2048**3


def test_who_dies_is_out_and_the_others_go_on(monkeypatch):
    class Mortal(Timed):
        def ask(self, action, method=None, **order):
            if self.speed == 0.1 and method == "turn" and self.turns == 2:
                raise rounds.WorkerError("killed")
            return super().ask(action, method, **order)

    monkeypatch.setattr(Timed, "started", 0)
    monkeypatch.setattr(rounds, "Worker", Mortal)
    gone = []
    plan = rounds.Plan(["tfdeit", "tfdeit-predict"], "", "float32", macs=500_000, batches=[1], rounds=3, seconds=1)
    (row,) = rounds.measure(plan, lambda *failure: gone.append(failure), lambda count: None)
    assert gone == [("tfdeit", "killed")]
    assert row["contestant"] == "tfdeit-predict"
    assert (row["ratio"], row["difference"], row["split"]) == (None, None, None)
    assert "part" not in row
    assert "-" in benchmark_command.cells(row)


def test_bars_are_as_long_as_the_values():
    groups = {"one": {"a": 100.0, "b": 50.0}, "two": {"a": 3.0}}
    pixels = np.asarray(bar_chart(groups, "title", "images/s"))
    blue, orange = ((pixels == colour).all(axis=-1).sum(axis=1) for colour in ((0, 114, 178), (213, 94, 0)))
    assert len(np.flatnonzero(np.diff(np.flatnonzero(blue)) > 1)) == 1  # two bars
    assert blue.max() == pytest.approx(2 * orange.max(), rel=0.02)


@pytest.mark.slow
def test_everything(model_dir, tmp_path, capfd):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name)
    arguments = ["--model", model_dir, "--batch", 2, "--rounds", 1, "--chart", tmp_path / "speed.png"]
    against = "tfdeit-jit,tfdeit-savedmodel,onnxruntime"
    assert main(["benchmark", *map(str, arguments), "--against", against, "--json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["contestant"] for row in rows] == ["tfdeit", *against.split(",")]
    for row in rows:
        assert row["difference"] < 1e-4
        assert row["images_per_second"] == pytest.approx(2000 / row["milliseconds"])
        assert row["load_seconds"] > 0
        assert row["peak_bytes"] is None or row["peak_bytes"] > 1e7
    with Image.open(tmp_path / "speed.png") as chart:
        assert chart.width > 500


@pytest.mark.slow
def test_tensorflow_classes_of_transformers_4(model_dir, engines_python):
    """The classes that users come from give the same logits, in the environment that still has them."""
    arguments = ["--model", model_dir, "--batch", 2, "--rounds", 1, "--against", "transformers-tf", "--json", "--quiet"]
    command = [engines_python, "-m", "tfdeit", "benchmark", *arguments]
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = map(json.loads, done.stdout.splitlines())
    assert (ours["contestant"], theirs["contestant"]) == ("tfdeit", "transformers-tf")
    assert 0 < theirs["difference"] < 1e-4
