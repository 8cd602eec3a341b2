"""Export for TF Serving: a SavedModel that takes the bytes of images and returns labels."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfdeit.exports.saved_model.preprocessing import GraphProcessor
from tfdeit.exports.saved_model.side_files import SIDE_FILES, write_side_files, write_warmup
from tfdeit.exports.saved_model.signatures import ServedClassifier
from tfdeit.labels import name_classes
from tfdeit.network.backbone import PretrainedModel
from tfdeit.network.models import check_exportable
from tfdeit.preprocessing.base_processor import BaseImageProcessor


def export_saved_model(
    model: PretrainedModel,
    processor: BaseImageProcessor,
    directory: str | os.PathLike,
    *,
    dtype: str | None = None,
    top_k: int | None = None,
    labels: str | os.PathLike | Sequence[str] | None = None,
) -> Path:
    """Writes the next version of a model for TF Serving, complete or not at all.

    `directory` is the model's base path in TF Serving, and its name becomes the model's. It holds the versions 1, 2,
    ..., models.config, batching_parameters.txt, and a README.md with commands to serve and query the model.

    Args:
        model: a classifier, in TensorFlow.
        processor: its image processor, which becomes part of the graph.
        directory: new, empty, or with earlier versions.
        dtype: "bfloat16", "float16" or "float32" to store and compute in; None means the model's own.
        top_k: how many classes are returned for an image; None means 5, or all if there are fewer.
        labels: the names of all classes, or a text file with one per line; None means `model.config.id2label`.

    Returns:
        The directory of the new version.

    Raises:
        ValueError: if an argument is invalid or does not fit the model.
        OSError: if the directory cannot be written.
    """
    directory = Path(directory).resolve()
    check_exportable(model)
    _check_directory(directory)
    classes = list(model.config.id2label.values()) if labels is None else name_classes(labels, model.config.num_labels)
    top_k = min(5, len(classes)) if top_k is None else top_k
    if not 1 <= top_k <= len(classes):
        raise ValueError(f"Expected top_k from 1 to the number of classes, {len(classes)}. Received: top_k={top_k}.")
    graph_processor = GraphProcessor(processor, model.config.image_hw)
    if dtype is not None and keras.dtype_policies.get(dtype) != model.dtype_policy:
        model = _converted(model, dtype)

    created = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    # Not a number, so that TF Serving ignores it until it is renamed.
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory))
    try:
        module = ServedClassifier(model, graph_processor, classes, top_k)
        signatures = module.signatures()
        _save(module, signatures, partial)
        write_warmup(partial, directory.name, model.config.image_hw)
        partial.chmod(0o755)
        numbers = [int(path.name) for path in directory.iterdir() if _is_version(path)]
        version = partial.rename(directory / str(1 + max(numbers, default=0)))
    except BaseException:
        shutil.rmtree(directory if created else partial, ignore_errors=True)
        raise
    write_side_files(version, model, signatures)
    return version


def _check_directory(directory):
    present = directory.iterdir() if directory.is_dir() else ()
    others = [path.name for path in present if path.name not in SIDE_FILES and not _is_version(path)]
    if others:
        raise ValueError(
            f"Expected a new or empty directory, or one with earlier versions. Received: {directory}, which holds "
            f"{', '.join(sorted(others)[:5])}. Choose another."
        )


def _is_version(path):
    return path.is_dir() and path.name.isdecimal()


def _converted(model, dtype):
    """Returns a copy of the model that stores and computes in `dtype`."""
    copy = type(model)(model.config, dtype=dtype)
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        ours.assign(theirs)
    return copy


def _save(module, signatures, directory):
    tf.saved_model.save(module, str(directory), signatures=signatures)
    # TensorFlow 2 gives every signature the method "predict"; TF Serving may insist on the right one.
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(directory))
    updater.replace_method_name(
        signature_key="classify", method_name=tf.compat.v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME
    )
    updater.save()
