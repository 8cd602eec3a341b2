"""Saving to a directory: what is in it, and what a crash or an invalid option leaves there."""

import json
import stat
import warnings

import pytest
import safetensors
from checkpoints import rewrite_config

import tfdeit
from tfdeit.checkpoint import CheckpointError, writers


def test_saved_files(saved):
    directory = saved[1]
    assert sorted(file.name for file in directory.iterdir()) == ["config.json", "model.safetensors"]
    modes = {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert len(modes) == 1  # whoever may read the config may read the weights
    with safetensors.safe_open(directory / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["DeiTForImageClassification"]
    assert config["model_type"] == "deit"
    assert config["dtype"] == "float32"


def test_unknown_fields_of_the_config_survive(saved, tmp_path):
    rewrite_config(saved[1], torch_dtype="float16", custom={"a": 1})
    tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1]).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["custom"] == {"a": 1}
    assert config["dtype"] == "float32"
    assert "torch_dtype" not in config


def test_crash_while_saving_keeps_the_old_files(saved, monkeypatch):
    model, directory = saved
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    other = tfdeit.TFDeiTForImageClassification(model.config)

    def crash(path, tensors, metadata, advance):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writers, "write_safetensors", crash)
        with pytest.raises(OSError, match="disk full"):
            other.save_pretrained(directory)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    other.save_pretrained(directory)
    assert (directory / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_saving_to_a_file(saved):
    with pytest.raises(CheckpointError, match="Expected a directory to save to"):
        saved[0].save_pretrained(saved[1] / "config.json")


def test_loading_what_fits_warns_of_nothing(saved):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tfdeit.TFDeiTForImageClassification.from_pretrained(saved[1])
    assert [warning for warning in caught if warning.category is UserWarning] == []


def test_saving_as_integers(saved, tmp_path):
    with pytest.raises(ValueError, match="Expected dtype to be float32, float16 or bfloat16"):
        saved[0].save_pretrained(tmp_path / "integers", dtype="int8")
    assert not (tmp_path / "integers").exists()
