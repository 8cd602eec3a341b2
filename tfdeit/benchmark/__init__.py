"""Speed and memory of a classifier beside other implementations. This module lists them, without heavy imports."""

import importlib.metadata
import importlib.util
import shlex
from typing import NamedTuple

from packaging.requirements import Requirement

from tfdeit.inference.classifier import DTYPES
from tfdeit.presentation.hints import did_you_mean


class Contestant(NamedTuple):
    """An implementation that can be measured.

    Attributes:
        about: what it is.
        packages: import name -> requirement for pip.
        dtypes: the dtypes that it can compute in.
    """

    about: str
    packages: dict[str, str]
    dtypes: tuple[str, ...] = DTYPES


_TORCH = {"torch": "torch", "transformers": "transformers"}
_TF = {"tf_keras": "tf-keras", "transformers": "transformers<5"}
_TIMM = {"torch": "torch", "torchvision": "torchvision", "timm": "timm"}
_HUB, _OPENVINO = {"keras_hub": "keras-hub"}, {"openvino": "openvino", "onnx": "onnx"}
CONTESTANTS = {
    "tfdeit": Contestant("the forward pass: a TensorFlow graph; XLA on a GPU and with JAX", {}),
    "tfdeit-graph": Contestant("the forward pass as a TensorFlow graph; eager with PyTorch", {}),
    "tfdeit-jit": Contestant("the forward pass compiled by XLA, or by torch.compile", {}),
    "tfdeit-predict": Contestant("model.predict_on_batch", {}),
    "tfdeit-savedmodel": Contestant("predict_pixels of the SavedModel that `tfdeit export` writes", {}),
    "transformers": Contestant("transformers in PyTorch, with fused attention (SDPA)", _TORCH),
    "transformers-compile": Contestant("the same, compiled by torch.compile", _TORCH),
    "transformers-tf": Contestant("the TensorFlow classes of transformers 4, as a graph", _TF, ("float32",)),
    "transformers-tf-jit": Contestant("the same, compiled by XLA", _TF, ("float32",)),
    "timm": Contestant("timm in PyTorch", _TIMM),
    "keras-hub": Contestant("keras-hub as a graph; random weights", _HUB),
    "keras-hub-jit": Contestant("keras-hub compiled by XLA; random weights", _HUB),
    "openvino": Contestant("OpenVINO; in float32 if the processor does not have bfloat16", _OPENVINO),
    "onnxruntime": Contestant("ONNX Runtime", {"onnxruntime": "onnxruntime", "onnx": "onnx"}, ("float32", "float16")),
}


def find(name: str) -> Contestant:
    """Returns the contestant of a name.

    Raises:
        ValueError: if there is none; the message suggests a similar name.
    """
    if name in CONTESTANTS:
        return CONTESTANTS[name]
    hint = did_you_mean(name, CONTESTANTS)
    raise ValueError(f"Expected one of {', '.join(CONTESTANTS)}. Received: {name!r}.{hint}")


def absence(name: str, dtype: str) -> str | None:
    """Returns why a contestant cannot take part and what to do about it; None if it can."""
    row = find(name)
    missing = [package for module, package in row.packages.items() if not _installed(module, Requirement(package))]
    if missing:
        return f"not installed: pip install {' '.join(map(shlex.quote, missing))}"
    if dtype not in row.dtypes:
        return f"has no {dtype}, only {' and '.join(row.dtypes)}"
    return None


def _installed(module: str, package: Requirement) -> bool:
    if importlib.util.find_spec(module) is None:
        return False
    return not package.specifier or package.specifier.contains(importlib.metadata.version(package.name))
