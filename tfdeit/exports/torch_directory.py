"""PyTorch: a directory in Hugging Face's format, for transformers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfdeit.backbone import PretrainedModel
from tfdeit.models import TFAutoModelForImageClassification


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None):
    """Writes config.json and model.safetensors.

    Raises:
        ValueError: for DeiT III, of which transformers has no class.
    """
    if model.config.layerscale_value is not None or model.config.no_embed_class:
        raise ValueError(
            "Expected a model that transformers has a class for. Received: DeiT III (layerscale_value or "
            "no_embed_class is set). Use `tfdeit port MODEL --to timm -o model.pth`, which timm's deit3_* models load."
        )
    model.save_pretrained(directory, dtype=dtype)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in transformers, computing in float32; or in this library, where that is not installed."""
    ours = TFAutoModelForImageClassification.from_pretrained(directory, dtype="float32")
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return lambda pixel_values: ours.predict_on_batch(pixel_values).logits

    import torch
    import transformers

    model_class = getattr(transformers, type(ours).__name__.removeprefix("TF"))
    theirs = model_class.from_pretrained(directory, dtype=torch.float32).eval()

    def run(pixel_values):
        with torch.inference_mode():
            return theirs(torch.from_numpy(np.ascontiguousarray(pixel_values.transpose(0, 3, 1, 2)))).logits.numpy()

    return run
