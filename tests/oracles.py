"""transformers' models with random weights, saved in the hub's format, and what they answer; and timm."""

import enum
import functools
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="the oracle: pip install tfdeit[parity]")
torch = pytest.importorskip("torch", reason="the oracle: pip install tfdeit[parity]")

# What timm takes from torchvision while it is imported. Its models, mixing and augmentations run without.
TORCHVISION = {
    "torchvision": (),
    "torchvision.datasets": ("CIFAR10", "CIFAR100", "FashionMNIST", "ImageFolder", "KMNIST", "MNIST"),
    "torchvision.ops": (),
    "torchvision.ops.misc": ("FrozenBatchNorm2d",),
    "torchvision.transforms": ("ToTensor",),
    "torchvision.transforms.functional": (),
}

TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


class Absent:
    """Stands for any class of torchvision: timm derives from it and asks for instances, of which there are none."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("Expected torchvision. Received its stand-in, which tests import timm with.")


@functools.cache
def import_timm() -> types.ModuleType:
    """Returns timm, all of `timm.models` and `timm.data` loaded; skips the test where it is not installed.

    torchvision has to be of torch's very build. Where it is not, or not installed, a stand-in is there for the time of
    the import only: transformers too asks whether there is a torchvision.
    """
    if importlib.util.find_spec("timm") is None:
        pytest.skip("the oracle: pip install --no-deps timm", allow_module_level=True)
    try:
        import torchvision  # noqa: F401
    except Exception:  # a build for another torch fails in many ways
        modules = {name: types.ModuleType(name) for name in TORCHVISION}
        for name, module in modules.items():
            vars(module).update(dict.fromkeys(TORCHVISION[name], Absent))
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(modules[parent], child, module)
        modes = enum.Enum("InterpolationMode", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
        modules["torchvision.transforms.functional"].InterpolationMode = modes
        sys.modules.update(modules)
    else:
        modules = {}
    try:
        return importlib.import_module("timm")
    finally:
        for name in modules:
            del sys.modules[name]


def random_model(class_name: str, **config):
    """Returns a transformers model, every parameter random: transformers starts tokens and positions at zero."""
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    return randomised(model_class(model_class.config_class(**config, attn_implementation="eager")).eval())


def random_timm_model(name: str, **sizes):
    """Returns a model of timm, every parameter random."""
    torch.manual_seed(0)
    return randomised(import_timm().create_model(name, weight_init="skip", **sizes).eval())


def randomised(model):
    """Draws matrices and tokens, and moves vectors away from the zeros and ones at which norms and biases start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            else:
                parameter.normal_(std=0.03)
    return model


def answer(model, pixel_values: np.ndarray, **options) -> dict[str, np.ndarray]:
    """Runs a transformers model on (B, H, W, C) pixel values; returns all its outputs by name, tuples of them too."""
    options = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy()), **options)
    return {k: tuple(x.numpy() for x in v) if isinstance(v, tuple) else v.numpy() for k, v in outputs.items()}


def timm_answer(model, pixel_values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Runs a model of timm on (B, H, W, C) pixel values; returns each block's tokens, and the logits."""
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda block, inputs, tokens: outputs.append(tokens.numpy()))
    with torch.no_grad():
        logits = model(torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy()))
    return (*outputs, logits.numpy())


def saved(model, directory: Path) -> Path:
    """Saves a transformers model and returns the directory."""
    model.save_pretrained(directory)
    return directory


def largest_difference(ours, theirs) -> float:
    """Returns the largest absolute difference of two arrays, or of two tuples of arrays of the same length."""
    if isinstance(theirs, tuple):
        assert len(ours) == len(theirs) > 0
        return max(largest_difference(a, b) for a, b in zip(ours, theirs, strict=True))
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())
