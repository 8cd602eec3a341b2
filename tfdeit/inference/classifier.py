"""What all commands share to classify files: loading a checkpoint and its processor, preparing files, probabilities.

Heavy imports are inside the functions: the command line imports this module before it parses its arguments.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tfdeit.presentation.terminal import silenced_stderr
from tfdeit.protocols import PROTOCOLS

DTYPES = ("float32", "bfloat16", "float16")  # for storing the weights and for computing


def load_classifier(source: str, protocol: str | None, dtype: str = "float32"):
    """Returns the classifier, which stores and computes in `dtype`, and the image processor of a checkpoint.

    Raises:
        ValueError: if the checkpoint cannot be used.
        FileNotFoundError: if it has no preprocessor_config.json, and no protocol is given.
    """
    keras = start_keras()
    from tfdeit.checkpoint.files import find_directory
    from tfdeit.network.models import TFAutoModelForImageClassification
    from tfdeit.preprocessing.processors import AutoImageProcessor, protocol_processor

    directory = find_directory(source)
    model = TFAutoModelForImageClassification.from_pretrained(directory, dtype=dtype)
    if keras.backend.backend() == "tensorflow":
        model.compile(jit_compile=False)  # XLA recompiles for a smaller last batch, which costs more than it saves
    size = model.config.image_hw[0]
    try:
        processor = AutoImageProcessor.from_pretrained(source)
    except FileNotFoundError:
        if protocol is None:
            raise FileNotFoundError(
                f"Expected a preprocessor_config.json in {directory}. Received: no such file. Add the checkpoint's, or "
                f"pass --protocol with one of {', '.join(PROTOCOLS)}."
            ) from None
        return model, protocol_processor(protocol, size)
    return model, processor.with_protocol(protocol, size) if protocol else processor


def start_keras():
    """Imports Keras, silencing what its backend prints about the machine."""
    with silenced_stderr():
        import keras

        keras.ops.zeros(1)  # finds the devices
    return keras


def prepare(processor, path: str):
    """Returns (path, pixel values (H, W, 3), None), or (path, None, reason) for an image that cannot be used."""
    from tfdeit.preprocessing.images import ImageError

    try:
        return path, processor(path, return_tensors="np").pixel_values[0], None
    except ImageError as error:
        return path, None, str(error).removeprefix(f"{path}: ")


def prefetched(pool: ThreadPoolExecutor, function, items: list, size: int) -> Iterator[list]:
    """Yields the results of `function` for all items, in lists of `size`; the pool works one list ahead."""
    waiting: list[Future] = []
    for start in range(0, len(items), size):
        futures = [pool.submit(function, item) for item in items[start : start + size]]
        if waiting:
            yield [future.result() for future in waiting]
        waiting = futures
    yield [future.result() for future in waiting]


def softmax(logits):
    """Returns the probabilities, (B, N) float64, of logits (B, N)."""
    import numpy as np

    logits = np.asarray(logits, "float64")
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)
