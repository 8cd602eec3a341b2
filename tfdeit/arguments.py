"""What the parsers of all commands share: types of arguments, and how a model is named."""

import argparse
import contextlib
import json
import math

DEFAULT_MODEL = "deit_micro_cifar10"
DTYPES = ("float32", "bfloat16", "float16")
PROTOCOLS = ("deit3", "fb", "hf", "mmpretrain", "timm", "vit")


def add_model(parser: argparse.ArgumentParser):
    """Adds --model and --protocol, the arguments of `commands.load_classifier`."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )


def add_dtype(parser: argparse.ArgumentParser):
    """Adds --dtype, which `commands.load_classifier` takes too."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="to store the weights and compute in (%(default)s)"
    )


def assignment(text: str) -> tuple[str, object]:
    """Parses FIELD=VALUE, the value as JSON, or else as a string."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, received {text!r}")
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(value)
    return name, tuple(value) if isinstance(value, list) and "size" in name else value


def version_label(text: str) -> tuple[str, int]:
    """Parses LABEL=VERSION."""
    label, _, version = text.partition("=")
    if not (label and version.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected LABEL=VERSION with a number, received {text!r}")
    return label, int(version)


def natural(text: str, low: int = 0, high: float = math.inf) -> int:
    """Parses an integer of at least 0."""
    value = int(text) if text.isdecimal() else -1
    if not low <= value <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(f"expected an integer {bounds}, received {text!r}")
    return value


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    return natural(text, 1)


def port_number(text: str) -> int:
    """Parses a TCP port."""
    return natural(text, 0, 65535)
