"""Hugging Face directories, read and written exactly; the options of loading; and where directories are found."""

import importlib.resources
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import MICRO, read_tensors

import tfdeit
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.files import find_directory, named_variables

CLASSES = {
    "ViT": ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"],
    "DeiT": [
        "DeiTModel",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
        "DeiTForMaskedImageModeling",
    ],
}
ALL_CLASSES = [*CLASSES["ViT"], *CLASSES["DeiT"]]
PAIRS = [(a, b) for family in CLASSES.values() for a in family for b in family if a != b]


def ours(class_name):
    return getattr(tfdeit, f"TF{class_name}")


def values(model):
    return {name: v.numpy() for name, v in named_variables(model).items()}


def assert_equal_weights(a, b, but=()):
    a, b = values(a), values(b)
    assert a.keys() == b.keys()
    for name in a.keys() - set(but):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Against transformers.


@pytest.fixture(scope="module")
def oracles():
    return pytest.importorskip("oracles", reason="the oracle: pip install tfdeit[parity]")


@pytest.fixture(scope="module")
def theirs(oracles, tmp_path_factory):
    """The directory of a random transformers model, by class name."""
    folder = tmp_path_factory.mktemp("theirs")
    return {name: oracles.saved(oracles.random_model(name, **MICRO), folder / name) for name in ALL_CLASSES}


def load_theirs(oracles, class_name, directory):
    model, info = getattr(oracles.transformers, class_name).from_pretrained(directory, output_loading_info=True)
    return model, {name.removesuffix("_keys"): set(names) for name, names in info.items()}


def assert_same_state(oracles, class_name, a, b):
    (a, a_info), (b, b_info) = (load_theirs(oracles, class_name, directory) for directory in (a, b))
    assert not any(a_info.values())
    assert not any(b_info.values())
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(value.equal(b.state_dict()[name]) for name, value in a.state_dict().items())
    assert a.config.id2label == b.config.id2label
    assert a.config.architectures == b.config.architectures == [class_name]


@pytest.mark.parametrize("class_name", ALL_CLASSES)
def test_round_trip_through_transformers(oracles, theirs, tmp_path, class_name):
    ours(class_name).from_pretrained(theirs[class_name]).save_pretrained(tmp_path)
    assert_same_state(oracles, class_name, theirs[class_name], tmp_path)


def test_round_trip_without_qkv_bias(oracles, tmp_path):
    oracles.saved(
        oracles.random_model("ViTModel", **MICRO | {"num_hidden_layers": 2, "qkv_bias": False}), tmp_path / "theirs"
    )
    model = tfdeit.TFViTModel.from_pretrained(tmp_path / "theirs")
    assert "block_1/attention/qkv/kernel" in values(model)
    assert "block_1/attention/qkv/bias" not in values(model)
    model.save_pretrained(tmp_path / "ours")
    assert_same_state(oracles, "ViTModel", tmp_path / "theirs", tmp_path / "ours")


def listed(pattern, message):
    found = re.search(pattern, message)
    return set(found[1].split(", ")) if found else set()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_cross_loading_reports_what_transformers_reports(oracles, theirs, tmp_path, source, target):
    with pytest.warns(UserWarning, match=f"^TF{target} from ") as caught:
        model = ours(target).from_pretrained(theirs[source])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    expected_model, info = load_theirs(oracles, target, theirs[source])
    assert listed("newly initialised: (.*?); train", message) == info["missing"]
    assert listed("unused: (.*?)\\.$", message) == info["unexpected"]

    model.save_pretrained(tmp_path)
    loaded, expected = load_theirs(oracles, target, tmp_path)[0].state_dict(), expected_model.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert name in info["missing"] or loaded[name].equal(tensor)


@pytest.mark.parametrize("kind", ["sharded safetensors", "one .bin", "sharded .bin"])
def test_other_weight_files(oracles, theirs, tmp_path, kind):
    model, _ = load_theirs(oracles, "DeiTModel", theirs["DeiTModel"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    if kind == "one .bin":
        for file in [index, *tmp_path.glob("*.safetensors")]:
            file.unlink()
        tensors = {n: oracles.torch.from_numpy(v) for n, v in read_tensors(theirs["DeiTModel"]).items()}
        oracles.torch.save(tensors, tmp_path / "pytorch_model.bin")
    elif kind == "sharded .bin":
        for file in tmp_path.glob("*.safetensors"):
            tensors = {n: oracles.torch.from_numpy(v) for n, v in safetensors.numpy.load_file(file).items()}
            oracles.torch.save(tensors, tmp_path / f"{file.stem}.bin")
            file.unlink()
        text = index.read_text().replace(".safetensors", ".bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    assert_equal_weights(
        tfdeit.TFDeiTModel.from_pretrained(tmp_path), tfdeit.TFDeiTModel.from_pretrained(theirs["DeiTModel"])
    )


@pytest.mark.parametrize("image_size", [64, 16, (24, 40)])
def test_image_size_interpolates_the_positions_as_torch_does(oracles, saved, image_size):
    original, directory = saved
    model = tfdeit.TFDeiTForImageClassification.from_pretrained(directory, image_size=image_size)
    name = "deit/token_concatenation/position_embeddings"
    assert_equal_weights(model, original, but={name})
    table = oracles.torch.from_numpy(values(original)[name]).double()
    grid = model.config.grid
    patches = oracles.torch.nn.functional.interpolate(
        table[:, 2:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False
    )
    received = values(model)[name]
    np.testing.assert_array_equal(received[:, :2], table[:, :2].numpy())
    np.testing.assert_allclose(
        received[0, 2:].reshape(*grid, 32), patches[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-6
    )


# Options.


def test_own_round_trip(saved):
    model, directory = saved
    copy = tfdeit.TFDeiTForImageClassification.from_pretrained(str(directory))
    assert_equal_weights(copy, model)
    assert copy.config.replace(extra={}) == model.config
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(copy.predict(images, verbose=0).logits, model.predict(images, verbose=0).logits)


@pytest.mark.parametrize("labels", [{"num_labels": 3}, {"id2label": {0: "cat", 1: "dog", 2: "bird"}}])
def test_other_labels_renew_the_classifier(saved, labels):
    original, directory = saved
    expected = "newly initialised: classifier.bias (5 instead of 3), classifier.weight (5x32 instead of 3x32); train"
    with pytest.warns(UserWarning, match=re.escape(expected)):
        model = tfdeit.TFDeiTForImageClassification.from_pretrained(directory, **labels)
    assert model.config.num_labels == 3
    assert values(model)["classifier/kernel"].shape == (32, 3)
    assert 0.01 < values(model)["classifier/kernel"].std() < 0.03  # drawn: kernels to be loaded start as zeros
    assert_equal_weights(model, original, but={"classifier/kernel", "classifier/bias"})


def test_new_names_for_as_many_labels_keep_the_classifier(saved):
    original, directory = saved
    model = tfdeit.TFDeiTForImageClassification.from_pretrained(directory, id2label=dict(enumerate("abcde")))
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
    assert_equal_weights(model, original)


def test_ignore_mismatched_sizes(saved):
    original, directory = saved
    with pytest.warns(UserWarning, match=r"deit\.encoder\.layer\.0\.intermediate\.dense\.bias \(64 instead of 48\)"):
        model = tfdeit.TFDeiTForImageClassification.from_pretrained(
            directory, intermediate_size=48, ignore_mismatched_sizes=True
        )
    changed = {f"deit/block_0/mlp/{leaf}" for leaf in ("fc1/kernel", "fc1/bias", "fc2/kernel")}
    assert_equal_weights(model, original, but=changed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_of_model_and_file(saved, tmp_path, dtype):
    original, directory = saved
    half = tfdeit.TFDeiTForImageClassification.from_pretrained(directory, dtype=dtype)
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    for name, variable in named_variables(half).items():
        assert keras.backend.standardize_dtype(variable.dtype) == dtype
        expected = values(original)[name].astype(dtype).astype("float32")
        np.testing.assert_array_equal(values(half)[name].astype("float32"), expected)

    full = tfdeit.TFDeiTForImageClassification.from_pretrained(tmp_path / "half")
    assert {variable.dtype for variable in full.weights} == {"float32"}
    full.save_pretrained(tmp_path / "stored", dtype=dtype)
    half_tensors, stored_tensors = read_tensors(tmp_path / "half"), read_tensors(tmp_path / "stored")
    assert half_tensors.keys() == stored_tensors.keys()
    for name, tensor in half_tensors.items():
        np.testing.assert_array_equal(tensor, stored_tensors[name], strict=True)


def test_mixed_precision_keeps_float32_variables(saved):
    original, directory = saved
    model = tfdeit.TFDeiTForImageClassification.from_pretrained(directory, dtype="mixed_bfloat16")
    assert_equal_weights(model, original)
    assert model.compute_dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_load_and_save_the_same(saved, tmp_path, backend):
    pytest.importorskip(backend, reason=f"Keras' {backend} backend")
    script = (
        "import sys, tfdeit; model = tfdeit.TFDeiTForImageClassification.from_pretrained(sys.argv[1], dtype='bfloat16')"
    )
    script += "; model.save_pretrained(sys.argv[2])"
    command = [sys.executable, "-W", "error::UserWarning:tfdeit", "-c", script, saved[1], tmp_path]
    subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, check=True)
    expected, received = read_tensors(saved[1]), read_tensors(tmp_path)
    assert received.keys() == expected.keys()
    for name, tensor in received.items():
        assert tensor.dtype.name == "bfloat16"
        np.testing.assert_array_equal(tensor, expected[name].astype(tensor.dtype))


# Sources.


def test_embedded_checkpoint_by_name(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.resources, "files", lambda package: {"tfdeit.weights": tmp_path}[package])
    monkeypatch.chdir(saved[1])
    assert find_directory("saved") == saved[1]
    assert_equal_weights(tfdeit.TFDeiTForImageClassification.from_pretrained("saved"), saved[0])
    with pytest.raises(CheckpointError, match=r"an embedded one \(saved\), .* Received: 'saved/\.\./saved'"):
        find_directory("saved/../saved")


def test_source_that_is_no_directory(saved):
    with pytest.raises(
        CheckpointError, match="Received: 'deit_smal_patch16_224'.* Did you mean 'deit_small_patch16_224'"
    ):
        find_directory("deit_smal_patch16_224")
    with pytest.raises(CheckpointError, match="Received: the file .*; pass its directory"):
        find_directory(saved[1] / "model.safetensors")
