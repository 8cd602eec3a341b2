"""Models and predictions by name, with the functions of MMPretrain."""

import os
from typing import Any

import numpy as np
from keras import ops

from tfdeit import zoo
from tfdeit.checkpoint.files import find_directory
from tfdeit.config import DeiTConfig, ViTConfig, read_config
from tfdeit.network import models
from tfdeit.network.backbone import PretrainedModel, TFViTModel
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.processors import AutoImageProcessor, protocol_processor


def get_model(name: str | os.PathLike[str], pretrained: bool = True, **options: Any) -> PretrainedModel:
    """Builds a published model.

    Args:
        name: a name of the zoo; with `pretrained`, anything that `from_pretrained` takes.
        pretrained: whether to load the weights, downloading them if needed; they are random otherwise.
        **options: those of `from_pretrained`; without `pretrained`, fields of the config.

    Returns:
        A classifier, or a backbone if no classes were published. Its attribute `image_processor` is the checkpoint's,
        one with Facebook's protocol for another `image_size`, or None if the checkpoint has none.

    Raises:
        CheckpointError: if the weights cannot be obtained, or do not fit.
        ValueError: if there is no such name.
    """
    if not pretrained:
        row = zoo.find(str(name))
        config = row.config(**options)
        model = _choose_class(config)(config)
        model.image_processor = protocol_processor(row.protocol, config.image_hw[0])
        return model
    directory = find_directory(name)
    if read_config(directory).get("architectures") == ["ViTModel"]:
        model = TFViTModel.from_pretrained(directory, **options)
    else:
        model = models.TFAutoModelForImageClassification.from_pretrained(directory, **options)
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except FileNotFoundError:
        model.image_processor = None
    else:
        model.image_processor = processor.for_size(model.config.image_hw[0]) if "image_size" in options else processor
    return model


def _choose_class(config: ViTConfig) -> type[PretrainedModel]:
    if config.num_labels == 0:
        return TFViTModel
    if isinstance(config, DeiTConfig):
        return models.TFDeiTForImageClassificationWithTeacher
    return models.TFViTForImageClassification


def inference_model(
    model: str | os.PathLike[str] | PretrainedModel, image: Any, processor: BaseImageProcessor | None = None
) -> dict[str, Any]:
    """Classifies one image.

    Args:
        model: a name that `get_model` takes; or a classifier, which is faster for more than one image.
        image: what image processors take: a path, bytes, a PIL image, or an array (H, W, 3).
        processor: the checkpoint's image processor; None means the model's own, which `get_model` sets.

    Returns:
        A dict of pred_scores, the probabilities (N,) float32; and for the most probable class, pred_label (its index),
        pred_score (its probability) and pred_class (its name).

    Raises:
        ValueError: if the model has no classes, or no image processor is known.
    """
    model = model if isinstance(model, PretrainedModel) else get_model(model)
    processor = processor or getattr(model, "image_processor", None)
    if processor is None:
        raise ValueError(
            f"Expected an image processor, or a model from get_model whose checkpoint has one. Received: a "
            f"{type(model).__name__} without one. Pass processor=AutoImageProcessor.from_pretrained(...)."
        )
    outputs = model(processor(image, return_tensors="np").pixel_values)
    if not hasattr(outputs, "logits") or model.config.num_labels == 0:
        raise ValueError(f"Expected a classifier. Received: a {type(model).__name__}. For features, use extract_feat.")
    scores = ops.convert_to_numpy(ops.softmax(ops.cast(outputs.logits[0], "float32")))
    label = int(np.argmax(scores))
    return {
        "pred_scores": scores,
        "pred_label": label,
        "pred_score": float(scores[label]),
        "pred_class": model.config.id2label[label],
    }
