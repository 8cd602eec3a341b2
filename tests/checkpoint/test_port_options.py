"""Porting what was asked for: sizes, labels, provenance, progress; and the command."""

import hashlib
import json
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors
from checkpoints import SUFFIXES, load, our_model, timm_file
from conftest import ROOT
from references import OVERRIDES, TIMM, torch_shapes
from safetensors.numpy import load_file, save_file

import tfdeit
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import TARGETS, open_source, port
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.torch_files import read_torch
from tfdeit.cli.main import main
from tfdeit.cli.port import TARGETS as CLI_TARGETS


def test_image_size_interpolates_the_positions(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "same", **OVERRIDES)
    port(tmp_path / "a.safetensors", tmp_path / "larger", image_size=24, **OVERRIDES)
    received = load(source, tmp_path / "larger")
    expected = tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "same", image_size=24)
    for a, b in zip(received.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_num_labels_renews_the_heads(tmp_path):
    tensors = timm_file(tmp_path / "a.safetensors", distilled=True)
    source = port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="timm", id2label=["x", "y"], **OVERRIDES)
    received = load_file(tmp_path / "b.safetensors")
    assert received["head.weight"].shape == received["head_dist.weight"].shape == (2, 32)
    assert received["head.weight"].std() > 0.01
    assert source.initialised == [
        f"{h}/{leaf}" for h in ("cls_classifier", "distillation_classifier") for leaf in ("bias", "kernel")
    ]
    np.testing.assert_array_equal(received["norm.weight"], tensors["norm.weight"])


def test_config_of_another_model(tmp_path):
    our_model("ViTModel", num_hidden_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for model_type in ("deit", "bert", ["vit"]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        with pytest.raises(CheckpointError, match="Expected a config of model_type 'vit'"):
            open_source(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="Expected a JSON object"):
        open_source(tmp_path)


def test_grid_that_is_not_square(tmp_path):
    def crop(tensors):
        tensors["pos_embed"] = tensors["pos_embed"][:, : 1 + 2 * 6]

    timm_file(tmp_path / "a.safetensors", change=crop)
    with pytest.raises(CheckpointError, match="square number of patches.*Received: 12. Pass image_size"):
        open_source(tmp_path / "a.safetensors", **OVERRIDES)
    assert open_source(tmp_path / "a.safetensors", image_size=(8, 24), **OVERRIDES).config.grid == (2, 6)


def test_unused_pooler_of_a_classifier_is_left_out(tmp_path):
    model = our_model("ViTForImageClassification")
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a/model.safetensors")
    tensors |= {"vit.pooler.dense.weight": np.ones((32, 32), "f4"), "vit.pooler.dense.bias": np.ones(32, "f4")}
    save_file(tensors, tmp_path / "a/model.safetensors")
    source = port(tmp_path / "a", tmp_path / "b.safetensors", to="timm")
    assert source.unused == ["vit.pooler.dense.bias", "vit.pooler.dense.weight"]
    assert load_file(tmp_path / "b.safetensors").keys() == torch_shapes(TIMM, False).keys()


def test_a_rectangular_grid_whose_table_has_a_square_number_of_rows(tmp_path, rng):
    """3x5 patches and the class token are 16 rows, which is no DeiT III with 4x4."""
    config = tfdeit.ViTConfig(
        **{"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128},
        **{"image_size": (24, 40), "patch_size": 8, "encoder_stride": 8, "num_labels": 3, "layer_norm_eps": 1e-6},
    )
    model = tfdeit.TFViTForImageClassification(config)
    model.save_pretrained(tmp_path / "model")
    port(tmp_path / "model", tmp_path / "timm.safetensors", to="timm")
    port(tmp_path / "timm.safetensors", tmp_path / "back", image_size=(24, 40))
    back = tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "back")
    pixel_values = rng.normal(size=(1, 24, 40, 3)).astype("float32")
    np.testing.assert_allclose(back(pixel_values).logits, model(pixel_values).logits, atol=1e-6)


def test_progress_counts_every_tensor(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    totals, steps = [], []

    class Counter:
        def __init__(self, total):
            totals.append(total)

        def __enter__(self):
            return steps.append

        def __exit__(self, *error):
            pass

    for to, suffix in SUFFIXES.items():
        port(tmp_path / "a.safetensors", tmp_path / f"out{suffix}", to=to, progress=Counter, **OVERRIDES)
    assert sum(steps) == sum(totals)
    assert len(totals) == len(SUFFIXES)


# Provenance.


def test_files_say_where_they_come_from(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    checksum = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    expected = {"files": {"a.safetensors": checksum}, "format": "timm", "tfdeit": tfdeit.__version__}
    for to, suffix in SUFFIXES.items():
        port(tmp_path / "a.safetensors", tmp_path / f"{to}{suffix}", to=to, **OVERRIDES)
    assert json.loads((tmp_path / "hf/config.json").read_text())["tfdeit_provenance"] == expected
    for file in (tmp_path / "hf/model.safetensors", tmp_path / "timm.safetensors"):
        with safetensors.safe_open(file, "numpy") as opened:
            assert json.loads(opened.metadata()["tfdeit_provenance"]) == expected
    for to in ("fb", "mmpretrain"):
        assert json.loads(read_torch(tmp_path / f"{to}.pth")["meta"]["tfdeit_provenance"]) == expected
    assert json.loads(zipfile.ZipFile(tmp_path / "npz.npz").comment) == expected
    with h5py.File(tmp_path / "keras.weights.h5") as opened:
        assert json.loads(opened.attrs["tfdeit_provenance"]) == expected


def test_config_and_processor_of_a_directory_go_along(tmp_path):
    model = our_model("ViTForImageClassification", layer_norm_eps=1e-5, hidden_act="relu")
    model.save_pretrained(tmp_path / "a")
    tfdeit.ViTImageProcessor(size=16).save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b")
    assert source.config.replace(extra={}) == model.config
    assert (tmp_path / "b/preprocessor_config.json").is_file()
    assert load(source, tmp_path / "b").config.layer_norm_eps == 1e-5


def test_the_processor_is_kept_with_its_size(tmp_path):
    port("deit_micro_cifar10", tmp_path / "same")
    assert (tmp_path / "same/preprocessor_config.json").exists()
    port("deit_micro_cifar10", tmp_path / "larger", image_size=48)
    assert not (tmp_path / "larger/preprocessor_config.json").exists()


def test_a_backbone_keeps_its_pooler_beside_a_mask_token(tmp_path):
    model = tfdeit.TFViTModel(our_model("ViTModel").config, use_mask_token=True)
    model.save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b")
    assert source.unused == []
    assert read_any(tmp_path / "a")[0].keys() == read_any(tmp_path / "b")[0].keys()


# The command.


def test_command(tmp_path, capsys):
    assert tuple(TARGETS) == CLI_TARGETS
    timm_file(tmp_path / "a.safetensors")
    source, out = str(tmp_path / "a.safetensors"), str(tmp_path / "out")
    assert main(["port", source, "-o", out, "--set", "num_attention_heads=4", "--set", "hidden_act=relu"]) == 0
    assert "ViTForImageClassification of 0.0 M parameters, from timm" in capsys.readouterr().out
    config = tfdeit.ViTConfig.from_pretrained(out)
    assert (config.num_attention_heads, config.hidden_act) == (4, "relu")
    assert main(["port", source, "-o", out]) == 2
    assert "num_attention_heads" in capsys.readouterr().err
    assert main(["port", source, "-o", out, "--name", "deit_tiny_patch16_224"]) == 2
    assert (
        "Expected the checkpoint deit_tiny_patch16_224. Received one with\n  hidden_size: 32" in capsys.readouterr().err
    )
    for field in ("to", "name", "progress", "output"):
        assert main(["port", source, "-o", out, "--set", f"{field}=x"]) == 2
        assert f"Expected a field of ViTConfig. Received: '{field}'" in capsys.readouterr().err


def test_script():
    script = [sys.executable, ROOT / "weights" / "port_weights.py"]
    done = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True)
    assert "SOURCE" in done.stdout
    done = subprocess.run([*script, "absent", "-o", "out"], capture_output=True, text=True)
    assert (done.returncode, "Received: 'absent'" in done.stderr) == (2, True)


def test_porting_does_not_import_tensorflow(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    script = "import sys; from tfdeit.cli.main import main; assert main(sys.argv[1:]) == 0"
    script += "; assert not {'keras', 'tensorflow'} & {*sys.modules}"
    arguments = ["port", tmp_path / "a.safetensors", "-o", tmp_path / "out", "--set", "num_attention_heads=4"]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
