"""What the parsers of all commands share: output options, types of arguments, how a model is named, and completion."""

import argparse
import contextlib
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from tfdeit.inference.classifier import DTYPES
from tfdeit.presentation.hints import did_you_mean
from tfdeit.protocols import PROTOCOLS

DEFAULT_MODEL = "deit_micro_cifar10"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # suffixes of pictures that commands write


class Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines: what is wrong, and what may have been meant.

    Attributes:
        settings: the fields of this command's --set; empty if it has none.
    """

    settings: tuple[str, ...] = ()

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
        option = re.search(r"unrecognized arguments: (-[^\s=]+)(?:[ =]([^\s-]\S*))?", message)
        if choice:
            advice = did_you_mean(choice[1].strip("'"), re.findall(r"[^\s',]+", choice[2])).strip() or advice
        elif option:
            field = option[1].lstrip("-").replace("-", "_")
            known = re.findall(r"(?<=\[)--?\w[\w-]*|(?<= )--?\w[\w-]*", self.format_usage())
            if field in self.settings:
                advice = f"{field} is a field: write --set {field}={option[2] or 'VALUE'}."
            else:
                advice = did_you_mean(option[1], known).strip() or advice
        self.exit(2, f"{self.prog}: error: {message}\n  {advice}\n")


class Formatter(argparse.HelpFormatter):
    """Wraps the paragraphs of a help text; keeps the lines of those that are indented, such as examples and tables."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        super().__init__(prog, max_help_position=28, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if "\n  " in part or part.startswith("  ") else textwrap.fill(" ".join(part.split()), width)
            for part in paragraphs
        )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that stand before or after the name of every command; those that are not given set nothing."""
    group = parser.add_argument_group("output")
    for *names, text in (
        ("-q", "--quiet", "no progress and no notes on stderr, only results and errors"),
        ("--json", "print results as JSON, one object per line"),
        ("--debug", "show where an error comes from"),
    ):
        group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --protocol, the arguments of `load_classifier`."""
    model = parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    completed(model, model_names)
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as in this published evaluation, not as the model does"
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype, which `load_classifier` takes too."""
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="to store the weights and compute in (%(default)s)"
    )


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Adds the images of a command, which `photos.find_images` looks up."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, folder (searched recursively), glob, or - for a list on stdin",
    )


def add_settings(parser: Parser, kind: Callable[[str], Any], fields: Iterable[str], text: str) -> None:
    """Adds --set, whose values are parsed by `kind` and completed with the names of `fields`."""
    parser.settings = tuple(fields)
    argument = parser.add_argument(
        "--set", action="append", type=kind, default=[], metavar="FIELD=VALUE", dest="overrides", help=text
    )
    completed(argument, lambda: [f"{field}=" for field in parser.settings], files=False)


def completed(argument: argparse.Action, names: Callable[[], Iterable[str]], files: bool = True) -> None:
    """Lets a shell complete an argument with what the function `names` returns, and with files."""

    def complete(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*names(), *(FilesCompleter()(prefix) if files else ())]

    setattr(argument, "completer", complete)  # noqa: B010 - argparse has no such field, argcomplete looks for it


def model_names() -> list[str]:
    """Returns the names that every command takes for a model."""
    from tfdeit import zoo

    return [DEFAULT_MODEL, *(name for name, row in zoo.BY_NAME.items() if name not in row.file_names)]


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
