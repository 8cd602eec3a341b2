"""Directories that do not fit are refused as a whole, with one error."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import read_tensors, rewrite_config

import tfdeit
from tfdeit.checkpoint import CheckpointError


def rewrite_tensors(directory, change):
    tensors = read_tensors(directory)
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def no_assignment(monkeypatch):
    """Makes any assignment to a variable fail the test."""

    def assign(self, value):
        raise AssertionError(f"{self.path} was assigned")

    monkeypatch.setattr(keras.Variable, "assign", assign)


def test_no_assignment_is_a_live_check(saved, no_assignment):
    with pytest.raises(AssertionError, match="was assigned"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_all_that_does_not_fit_is_in_one_error(saved, no_assignment):
    def spoil(tensors):
        del tensors["deit.layernorm.weight"]
        del tensors["deit.encoder.layer.0.attention.attention.key.bias"]
        tensors["deit.encoder.layer.1.output.dense.bias"] = np.zeros(32, "float32")
        tensors["layernorm.bias"] = np.zeros(32, "float32")
        tensors["classifier.scale"] = np.zeros(5, "float32")
        tensors["deit.embeddings.cls_token"] = np.zeros((1, 2, 32), "float32")
        tensors["classifier.weight"] = np.zeros((7, 32), "float32")
        tensors["deit.layernorm.bias"] = np.zeros(32, "int64")

    rewrite_tensors(saved[1], spoil)
    with pytest.raises(CheckpointError) as caught:
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])
    assert str(caught.value).splitlines()[1:-1] == [
        "  missing: deit.encoder.layer.0.attention.attention.key.bias, deit.layernorm.weight",
        "  unexpected: classifier.scale, deit.encoder.layer.1.output.dense.bias, layernorm.bias",
        "  misshapen: classifier.weight (7x32 instead of 5x32), deit.embeddings.cls_token (1x2x32 instead of 1x1x32)",
        "  not floating-point: deit.layernorm.bias",
    ]


def test_long_reports_are_cut(saved, no_assignment):
    rewrite_tensors(saved[1], lambda tensors: tensors.update({f"x{i:03}": np.zeros(1) for i in range(300)}))
    with pytest.raises(CheckpointError, match=r"unexpected: x000, x001, .*, x019 and 280 more\n"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


@pytest.mark.parametrize("change", [{"num_hidden_layers": 0}, {"num_hidden_layers": 2}, {"hidden_size": 16}])
def test_config_that_is_not_the_weights(saved, no_assignment, change):
    rewrite_config(saved[1], **change)
    with pytest.raises(CheckpointError, match="Nothing was loaded"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_positions_of_another_size_need_to_be_asked_for(saved, no_assignment):
    rewrite_config(saved[1], image_size=64)
    with pytest.raises(CheckpointError, match=r"position_embeddings \(1x18x32 instead of 1x66x32\)"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_other_number_of_labels_in_the_config_of_the_file(saved, no_assignment):
    rewrite_config(saved[1], id2label={"0": "a"}, label2id={"a": 0})
    with pytest.raises(CheckpointError, match=r"classifier\.weight \(5x32 instead of 1x32\).*\n.*pass num_labels"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(saved, value):
    rewrite_tensors(saved[1], lambda tensors: tensors["deit.layernorm.bias"].put(3, value))
    with pytest.raises(CheckpointError, match=r"Expected finite values of deit\.layernorm\.bias"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_weights_beyond_float16(saved, tmp_path):
    rewrite_tensors(saved[1], lambda tensors: tensors["deit.layernorm.bias"].put(3, 1e5))
    with pytest.raises(CheckpointError, match=r"layernorm\.bias.* in float16"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1], dtype="float16")
    model = tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])
    with pytest.raises(CheckpointError, match=r"layernorm\.bias in float16"):
        model.save_pretrained(tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_model_of_the_other_type(saved, tmp_path):
    with pytest.raises(CheckpointError, match="Expected model_type 'vit'.*'deit'. Use TFDeiTForImageClassification"):
        tfdeit.TFViTForImageClassification.from_pretrained(saved[1])
    rewrite_config(saved[1], model_type="bert", architectures=["BertModel"])
    with pytest.raises(CheckpointError, match="'bert'. Only models of type vit and deit"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expected a JSON object"),
        ("[1]", "Expected a JSON object"),
        ('{"hidden_size": 0}', r"config\.json: Expected hidden_size"),
        ('{"architectures": 3, "model_type": ["vit"]}', "Expected model_type 'deit'"),
    ],
)
def test_faulty_config(saved, text, message):
    (saved[1] / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_directory_without_config(saved):
    (saved[1] / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"Expected a config\.json in .* Received: model\.safetensors"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])


def test_unknown_override(saved):
    with pytest.raises(ValueError, match="Did you mean 'num_labels'"):
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1], num_label=3)
