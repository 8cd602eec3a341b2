# PYTHON_ARGCOMPLETE_OK
"""The command line: a table of commands, their parsers, and what an exception says. Parses before anything heavy."""

import importlib
import os
import sys
import types

from tfdeit import __version__
from tfdeit.cli.arguments import Formatter, Parser, add_output_options
from tfdeit.presentation.terminal import Failure, complain, configure_output, report_error

# Command -> its line in the help. Module tfdeit.cli.<command> has DESCRIPTION, EXAMPLES (shell lines), the function
# add_arguments(parser), and run(args), which returns the exit status.
COMMANDS = {
    "predict": "classify images",
    "list": "list the published checkpoints",
    "info": "describe a published checkpoint",
    "port": "convert a checkpoint",
    "pack": "write a folder of images as records",
    "augment": "draw the augmentations of an image",
    "train": "train, distil or fine-tune a model",
    "evaluate": "measure the accuracy of a model",
    "benchmark": "measure speed and memory beside other implementations",
    "attention": "draw where a model looks",
    "export": "write a model for another runtime",
    "serve": "serve a SavedModel on this machine",
    "completion": "complete commands in a shell",
}
DESCRIPTION = "DeiT and ViT image classifiers for Keras and TensorFlow."
STATUS = (
    "Exit status: 0 done; 1 some inputs could not be used, or a check failed; 2 wrong usage, or a file or checkpoint "
    "that cannot be used; 130 interrupted."
)
EXAMPLES = """
tfdeit predict holiday/ --csv > labels.csv
tfdeit list 'deit_small*'
tfdeit train --recipe finetune --data photos --model deit_micro_cifar10 --out run
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit status, see `STATUS`.
    """
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options="long")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    configure_output(f"tfdeit {args.command}", args.quiet, args.json)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = module_of(args.command).run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except Exception as error:
        if args.debug:
            raise
        return report(error, args.command)


def report(error: Exception, command: str) -> int:
    """Prints the error that ended a command; returns the exit status."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        report_error(f"{error.filename}: {error.strerror}")
    elif isinstance(error, (Failure, ImportError, OSError, ValueError)):
        report_error(str(error))
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        report_error(
            f"unexpected {type(error).__name__}: {first}", f"`tfdeit {command} --debug ...` shows where it comes from."
        )
        return 1
    return 1 if isinstance(error, Failure) else 2


def module_of(command: str) -> types.ModuleType:
    """Returns the module of a command."""
    return importlib.import_module(f"tfdeit.cli.{command}")


def build_parser() -> Parser:
    """Returns the parser of all commands."""
    parser = Parser(prog="tfdeit", description=DESCRIPTION, epilog=epilog(EXAMPLES, STATUS), formatter_class=Formatter)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(quiet=False, json=False, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        module = module_of(name)
        command = commands.add_parser(
            name, help=text, description=module.DESCRIPTION, epilog=epilog(module.EXAMPLES), formatter_class=Formatter
        )
        module.add_arguments(command)
        add_output_options(command)
    add_output_options(parser)
    return parser


def epilog(examples: str, *paragraphs: str) -> str:
    """Returns what ends a help text: paragraphs, then examples, indented."""
    indented = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return "\n\n".join([*paragraphs, f"examples:\n{indented}"])
