"""TensorFlow's SavedModel, which `tfdeit.serving` writes: here it is loaded again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfdeit.backbone import PretrainedModel
from tfdeit.base_processor import BaseImageProcessor
from tfdeit.serving import export_saved_model


def write(
    model: PretrainedModel,
    processor: BaseImageProcessor,
    directory: Path,
    dtype: str,
    calibration: np.ndarray | None,
    top_k: int | None = None,
):
    """Writes version 1 of a directory for TF Serving."""
    export_saved_model(model, processor, directory, dtype=dtype, top_k=top_k)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the signature predict_pixels."""
    loaded: Any = tf.saved_model.load(directory / "1")  # a signature alone would not keep its variables alive

    def run(pixel_values):
        return loaded.signatures["predict_pixels"](pixel_values=tf.constant(pixel_values))["logits"].numpy()

    return run
