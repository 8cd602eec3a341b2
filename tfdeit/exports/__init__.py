"""Export to other runtimes. Here: which formats there are, in which dtypes, and what each needs; nothing heavy."""

import importlib
import importlib.util
import types
from typing import NamedTuple

from tfdeit.hints import did_you_mean


class Format(NamedTuple):
    """A format that a classifier can be exported to.

    Attributes:
        dtypes: how weights can be stored, the first by default.
        packages: import name -> name on PyPI, of what writes it and runs it.
        module: in this package; it has `write(model, processor, directory, dtype, calibration)` and
            `load(directory, dtype)`, which returns a function from pixel values (B, H, W, C) to logits (B, classes),
            both float32 arrays.
    """

    dtypes: tuple[str, ...]
    packages: dict[str, str]
    module: str


_OPENVINO = {"onnx": "onnx", "openvino": "openvino", "nncf": "nncf"}
FORMATS = {
    "savedmodel": Format(("float32", "float16", "bfloat16"), {}, "saved_model"),
    "litert": Format(("float32", "float16", "int8"), {"ai_edge_litert": "ai-edge-litert"}, "litert"),
    "onnx": Format(("float32", "float16"), {"onnx": "onnx", "onnxruntime": "onnxruntime"}, "onnx_graph"),
    "openvino": Format(("float32", "float16", "bfloat16", "int8"), _OPENVINO, "openvino_ir"),
    "torch": Format(("float32", "float16", "bfloat16"), {}, "torch_directory"),
}


def check_choice(name: str, dtype: str) -> None:
    """Refuses what is no format, a dtype that a format has not, and a format whose libraries are missing.

    Raises:
        ValueError: listing what there is.
        ModuleNotFoundError: saying what to install.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise ValueError(f"Expected a format out of {', '.join(FORMATS)}. Received: {name!r}.{hint}")
    row = FORMATS[name]
    if dtype not in row.dtypes:
        table = "; ".join(f"{other}: {', '.join(row.dtypes)}" for other, row in FORMATS.items())
        hint = did_you_mean(dtype, row.dtypes) or f" There are: {table}."
        raise ValueError(f"Expected a dtype that format {name} has. Received: {dtype!r}.{hint}")
    missing = [package for module, package in row.packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"Expected {', '.join(missing)} to be installed, for format {name}. Run: pip install tfdeit[export]"
        )


def implementation(name: str) -> types.ModuleType:
    """Returns the module that writes and loads a format."""
    return importlib.import_module(f"tfdeit.exports.{FORMATS[name].module}")
