"""transformers models with random weights, saved in the hub's format, and what they answer."""

from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="the oracle: pip install tfdeit[parity]")
torch = pytest.importorskip("torch", reason="the oracle: pip install tfdeit[parity]")

TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 5,
}


def random_model(class_name: str, **config):
    """Returns a transformers model, every parameter random: transformers starts tokens and positions at zero."""
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**config, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def answer(model, pixel_values: np.ndarray, **options) -> dict[str, np.ndarray]:
    """Runs a transformers model on (B, H, W, C) pixel values; returns all its outputs by name, tuples of them too."""
    options = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy()), **options)
    return {k: tuple(x.numpy() for x in v) if isinstance(v, tuple) else v.numpy() for k, v in outputs.items()}


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
