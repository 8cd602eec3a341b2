"""The files that contestants load, all from one model."""

from pathlib import Path
from typing import Any

import keras

from tfdeit import zoo
from tfdeit.benchmark.contestants import files
from tfdeit.checkpoint.port import port
from tfdeit.exports import implementation
from tfdeit.inference import get_model
from tfdeit.processing import protocol_processor


def prepare(model: str, folder: str, contestants: list[str], dtype: str) -> dict[str, Any]:
    """Writes what contestants need.

    Args:
        model: a name of the zoo, which gets random weights: they make no difference; or what `from_pretrained` takes.
        folder: an empty directory.
        contestants: names of `tfdeit.benchmark.CONTESTANTS`.
        dtype: what they compute in.

    Returns:
        The Keras backend; what the model is: class, parameters, macs (of an image), whether its weights are random; and
        `failed`, the reason for each contestant whose files cannot be written, as of a format that another backend
        has not.

    Raises:
        ValueError: if it is no classifier.
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
        except Exception as error:  # of any library: the others are measured all the same
            failed |= {name: str(error) for name in contestants if files(name) == format}
    about = {"class": type(network).__name__, "parameters": network.count_params(), "macs": network.config.macs}
    about |= {"backend": keras.backend.backend()}
    return {**about, "random": random, "failed": failed}
