"""Writes the files that the contestants load, all from one model."""

from pathlib import Path
from typing import Any

import keras

from tfdeit import zoo
from tfdeit.benchmark.contestants import files
from tfdeit.checkpoint.port import port
from tfdeit.exports import implementation
from tfdeit.inference.by_name import get_model
from tfdeit.preprocessing.processors import protocol_processor


def prepare(model: str, folder: str, contestants: list[str], dtype: str) -> dict[str, Any]:
    """Writes the files that the contestants need.

    Args:
        model: a name in the zoo, for random weights, which are just as fast; or what `from_pretrained` takes.
        folder: an empty directory.
        contestants: names in `tfdeit.benchmark.CONTESTANTS`.
        dtype: dtype that they compute in.

    Returns:
        `class`, `parameters` and `macs` (per image) of the model; `random`, whether its weights are random; `backend`,
        that of Keras; and `failed`, the reason for each contestant whose files cannot be written, as where this backend
        does not have the format.

    Raises:
        ValueError: if the model is not a classifier.
    """
    random = model in zoo.BY_NAME
    options = {"num_labels": zoo.find(model).config().num_labels or 1000} if random else {}
    network = get_model(model, pretrained=not random, **options)
    if not hasattr(network, "classifier_head") or network.config.num_labels == 0:
        raise ValueError(f"Expected a classifier. Received: {model}, a {type(network).__name__}.")
    directory = Path(folder)
    network.save_pretrained(directory / "hf")
    processor = network.image_processor or protocol_processor("hf", network.config.image_hw[0])
    failed: dict[str, str] = {}
    for format in sorted(set(filter(None, map(files, contestants)))):
        try:
            if format == "timm":
                port(directory / "hf", directory / "timm.safetensors", to="timm")
            else:
                (directory / format).mkdir()
                implementation(format).write(network, processor, directory / format, dtype, None)
        except Exception as error:  # from any library: the other contestants are still measured
            failed |= {name: str(error) for name in contestants if files(name) == format}
    about = {"class": type(network).__name__, "parameters": network.count_params(), "macs": network.config.macs}
    return {**about, "backend": keras.backend.backend(), "random": random, "failed": failed}
