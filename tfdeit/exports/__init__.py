"""Export to other runtimes. This module is the table of formats, and imports nothing heavy."""

import importlib
import importlib.util
import types
from collections.abc import Mapping
from typing import NamedTuple

from tfdeit.presentation.hints import did_you_mean


class Format(NamedTuple):
    """A format that a classifier can be exported to.

    Attributes:
        dtypes: how weights can be stored, the first by default.
        packages: import name -> name on PyPI, of what writes it and runs it.
        module: name of the module in this package, which has two functions:
            `write(model, processor, directory, dtype, calibration)` returns the `readme.Usage` that README.md shows,
            or None if it writes all side files itself; `load(directory, dtype)` returns a function from pixel values
            (B, H, W, C) to logits (B, classes), both float32 arrays.
        options: keyword of `write` -> the dtypes with which users may pass it.
        versioned: whether `write` writes version 1, and later exports into the same directory become versions 2, 3, ...
    """

    dtypes: tuple[str, ...]
    packages: dict[str, str]
    module: str
    options: Mapping[str, tuple[str, ...]] = types.MappingProxyType({})
    versioned: bool = False


_FLOATS = ("float32", "float16", "bfloat16")
_OPENVINO = {"onnx": "onnx", "openvino": "openvino", "nncf": "nncf"}
FORMATS = {
    "savedmodel": Format(_FLOATS, {}, "saved_model", {"top_k": _FLOATS}, versioned=True),
    "litert": Format(("float32", "float16", "int8"), {"ai_edge_litert": "ai-edge-litert"}, "litert"),
    "onnx": Format(("float32", "float16"), {"onnx": "onnx", "onnxruntime": "onnxruntime"}, "onnx_graph"),
    "openvino": Format((*_FLOATS, "int8"), _OPENVINO, "openvino_ir", {"calibration": ("int8",)}),
    "torch": Format(_FLOATS, {}, "torch_directory"),
}


def check_choice(name: str, dtype: str) -> None:
    """Checks that a format exists, that it supports a dtype, and that its libraries are installed.

    Raises:
        ValueError: listing what there is.
        ModuleNotFoundError: saying what to install.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise ValueError(f"Expected one of the formats {', '.join(FORMATS)}. Received: {name!r}.{hint}")
    row = FORMATS[name]
    if dtype not in row.dtypes:
        table = "; ".join(f"{other}: {', '.join(row.dtypes)}" for other, row in FORMATS.items())
        hint = did_you_mean(dtype, row.dtypes) or f" There are: {table}."
        raise ValueError(f"Expected a dtype that format {name} supports. Received: {dtype!r}.{hint}")
    missing = [package for module, package in row.packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"Expected {', '.join(missing)} to be installed, for format {name}. Run: pip install tfdeit[export]"
        )


def implementation(name: str) -> types.ModuleType:
    """Returns the module that writes and loads a format."""
    return importlib.import_module(f"tfdeit.exports.{FORMATS[name].module}")
