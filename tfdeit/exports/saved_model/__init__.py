"""SavedModel for TF Serving: one graph from the bytes of images to labels and probabilities.

`export` writes the graph, which `decoding`, `preprocessing` and `signatures` build, with the files of `side_files`
beside it. Here are the two functions that every export format has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfdeit.exports.saved_model.export import export_saved_model
from tfdeit.network.backbone import PretrainedModel
from tfdeit.preprocessing.base_processor import BaseImageProcessor


def write(
    model: PretrainedModel,
    processor: BaseImageProcessor,
    directory: Path,
    dtype: str,
    calibration: np.ndarray | None,
    top_k: int | None = None,
) -> None:
    """Writes version 1, with all side files."""
    export_saved_model(model, processor, directory, dtype=dtype, top_k=top_k)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the signature predict_pixels."""
    loaded: Any = tf.saved_model.load(directory / "1")  # its signature alone would not keep the variables alive

    def run(pixel_values):
        return loaded.signatures["predict_pixels"](pixel_values=tf.constant(pixel_values))["logits"].numpy()

    return run
