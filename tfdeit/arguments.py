"""What the parsers of all commands share: their manners, types of arguments, how a model is named, and completion."""

import argparse
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from tfdeit.hints import did_you_mean

DEFAULT_MODEL = "deit_micro_cifar10"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # suffixes of pictures that commands write
DTYPES = ("float32", "bfloat16", "float16")
PROTOCOLS = ("deit3", "fb", "hf", "mmpretrain", "timm", "vit")
RECIPES = (
    "deit_pretrain",
    "deit_distill_hard",
    "deit_distill_soft",
    "deit_finetune_384",
    "vit_finetune",
    "deit3_pretrain",
    "simmim",
    "linear_probe",
    "finetune",
    "cifar10_micro",
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines: what is wrong, and what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses unknown arguments where the options that may have been meant are known: in the command's parser."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Prints `message` and ends the process with status 2."""
        advice = f"`{self.prog} --help` lists the arguments."
        choice = re.search(r"invalid choice: (\S+) \(choose from (.*)\)", message, re.DOTALL)
        options = re.search(r"unrecognized arguments: (-[^\s=]+)", message)
        if choice:
            advice = did_you_mean(choice[1].strip("'"), re.findall(r"[^\s',]+", choice[2])).strip() or advice
        elif options:
            known = re.findall(r"(?<=\[)--?\w[\w-]*|(?<= )--?\w[\w-]*", self.format_usage())
            advice = did_you_mean(options[1], known).strip() or advice
        self.exit(2, f"{self.prog}: error: {message}\n  {advice}\n")


def add_manners(parser: argparse.ArgumentParser) -> None:
    """Adds the options that stand before or behind the name of every command; those that are not given set nothing."""
    group = parser.add_argument_group("output")
    for *names, text in (
        ("-q", "--quiet", "no progress and no notes on stderr, only results and errors"),
        ("--json", "print results as JSON, an object a line"),
        ("--debug", "show where an error comes from"),
    ):
        group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --protocol, the arguments of `commands.load_classifier`."""
    model = parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    completed(model, model_names)
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )


def completed(argument: argparse.Action, names: Callable[[], Iterable[str]]) -> None:
    """Lets a shell complete an argument with what the function `names` returns, and with files."""

    def complete(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*names(), *FilesCompleter()(prefix)]

    setattr(argument, "completer", complete)  # noqa: B010 - argparse has no such field, argcomplete looks for it


def model_names() -> list[str]:
    """Returns the names that every command takes for a model."""
    from tfdeit import zoo

    return [DEFAULT_MODEL, *(name for name, row in zoo.BY_NAME.items() if name not in row.file_names)]


def config_fields() -> list[str]:
    """Returns the beginnings of assignments to fields of config.json."""
    from tfdeit.config import DeiTConfig

    return [f"{field.name}=" for field in dataclasses.fields(DeiTConfig)]


def add_dtype(parser: argparse.ArgumentParser) -> None:
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
    """Parses an integer from `low` to `high`."""
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
