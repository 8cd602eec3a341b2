"""Small checkpoints: timm's in files, ours as models and in directories; how they are loaded, and not."""

import json

import numpy as np
import pytest
import sizes
from references import OVERRIDES, TIMM, random_tensors, torch_shapes
from safetensors.numpy import load_file, save_file

import tfdeit
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import open_source

SUFFIXES = {"hf": "", "timm": ".safetensors", "fb": ".pth", "mmpretrain": ".pth", "npz": ".npz", "keras": ".weights.h5"}
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "encoder_stride": 4,
    "num_labels": 5,
}
MICRO = sizes.MICRO | {"num_hidden_layers": 1}  # building a model takes most of the time here
TINY = "facebook/deit-tiny-distilled-patch16-224"


def timm_file(path, distilled=False, names=TIMM, seed=0, change=lambda tensors: None):
    tensors = random_tensors(torch_shapes(names, distilled), seed)
    change(tensors)
    save_file(tensors, path)
    return tensors


def load(source, directory):
    return getattr(tfdeit, f"TF{source.architecture}").from_pretrained(directory)


def our_model(class_name, **changes):
    config_class = tfdeit.DeiTConfig if class_name.startswith("DeiT") else tfdeit.ViTConfig
    model = getattr(tfdeit, f"TF{class_name}")(config_class(**CONFIG | changes))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


def fails(path, match, **options):
    with pytest.raises(CheckpointError, match=match):
        open_source(path, **OVERRIDES | options)


def read_tensors(directory):
    return load_file(directory / "model.safetensors")


def rewrite_config(directory, **changes):
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | changes))
