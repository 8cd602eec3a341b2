"""PyTorch: a directory in Hugging Face's format, for transformers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfdeit.exports.readme import Usage
from tfdeit.network.backbone import PretrainedModel
from tfdeit.network.models import TFAutoModelForImageClassification

_CLASSIFY = """\
def classify(pixel_values):
    model = transformers.{}.from_pretrained(".", dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor(pixel_values)).logits.numpy()"""


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None) -> Usage:
    """Writes config.json and model.safetensors.

    Raises:
        ValueError: for DeiT III, for which transformers has no class.
    """
    if model.config.layerscale_value is not None or model.config.no_embed_class:
        raise ValueError(
            "Expected a model that transformers has a class for. Received: DeiT III (layerscale_value or "
            "no_embed_class is set). Use `tfdeit port MODEL --to timm -o model.pth`, which timm's deit3_* models load."
        )
    model.save_pretrained(directory, dtype=dtype)
    imports, code = "import torch\nimport transformers", _CLASSIFY.format(type(model).__name__.removeprefix("TF"))
    return Usage("model.safetensors", dtype, "torch transformers", imports, code, channels_first=True)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in transformers, computing in float32; in this library where transformers is not installed."""
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
