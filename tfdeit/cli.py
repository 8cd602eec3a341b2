# PYTHON_ARGCOMPLETE_OK
"""The command line. Arguments are parsed before anything heavy is imported."""

import os
import sys

from tfdeit import (
    __version__,
    attention_command,
    benchmark_command,
    evaluate_command,
    export_commands,
    serve_command,
    train_command,
)
from tfdeit.arguments import (
    Parser,
    add_dtype,
    add_manners,
    add_model,
    assignment,
    completed,
    config_fields,
    model_names,
    positive,
)
from tfdeit.commands import run_augment, run_completion, run_info, run_list, run_pack, run_port, run_predict
from tfdeit.terminal import Failure, complain, report_error, set_manners

TARGETS = ("hf", "timm", "fb", "mmpretrain", "npz", "keras")


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit status, see `build_parser`.
    """
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options="long")
    args = parser.parse_args(argv)
    set_manners(f"tfdeit {args.command}", args.quiet, args.json)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = args.run(args)
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
    """Prints an error that ended a command; returns the exit status."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        report_error(f"{error.filename}: {error.strerror}")
    elif isinstance(error, (Failure, ImportError, OSError, ValueError)):
        report_error(str(error))
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        report_error(f"unexpected {type(error).__name__}: {first}", f"`tfdeit {command} --debug ...` shows where from.")
        return 1
    return 1 if isinstance(error, Failure) else 2


def build_parser() -> Parser:
    """Returns the parser of all commands."""
    parser = Parser(
        prog="tfdeit",
        description="DeiT and ViT image classifiers for Keras and TensorFlow.",
        epilog="Exit status: 0 done; 1 some inputs could not be used, or the outcome is not as it should be; 2 wrong "
        "usage, or a file or checkpoint that cannot be used; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(quiet=False, json=False, debug=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")

    predict = commands.add_parser(
        "predict",
        help="classify images",
        description="Classifies images and prints the most probable classes of each. Images that cannot be read are "
        "named on stderr, the others are classified all the same, and the exit status is 1.",
    )
    predict.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, folder (searched deeply), glob, or - for a list on stdin",
    )
    add_model(predict)
    add_dtype(predict)
    predict.add_argument("--top-k", type=positive, default=3, metavar="K", help="classes per image (%(default)s)")
    predict.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    predict.add_argument("--csv", action="store_true", help="print CSV, one line a class")
    predict.set_defaults(run=run_predict)

    zoo = commands.add_parser(
        "list",
        help="list the published checkpoints",
        description="Lists the published checkpoints: parameters and multiply-accumulates (derived from the "
        "architecture), and the accuracy on ImageNet-1k with the preprocessing that it was measured with.",
    )
    zoo.add_argument("pattern", nargs="?", metavar="PATTERN", help="names or aliases, with * and ? as wildcards")
    zoo.set_defaults(run=run_list)

    info = commands.add_parser("info", help="describe a published checkpoint", description="Prints a model card.")
    name = info.add_argument("name", metavar="NAME", help="name, alias, hub id or file name of a checkpoint")
    completed(name, model_names)
    info.set_defaults(run=run_info)

    port = commands.add_parser(
        "port",
        help="convert a checkpoint",
        description="Converts a checkpoint from and to the formats of Hugging Face, timm, Facebook, MMPretrain, Google "
        "and Keras. The format of SOURCE is found from the names in it; all of it fits, or nothing is written.",
    )
    source = port.add_argument(
        "source",
        metavar="SOURCE",
        help="directory in Hugging Face format; file: .safetensors .pth .bin .npz .h5 .keras; or the name of one "
        "to download, as `tfdeit list` and the hub have them",
    )
    completed(source, model_names)
    port.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="directory for hf, else a file with the target's suffix"
    )
    name = port.add_argument(
        "--name", metavar="ZOO_NAME", help="which published checkpoint SOURCE is, where it is a file (`tfdeit list`)"
    )
    completed(name, model_names)
    port.add_argument("--to", choices=TARGETS, default="hf", help="what to write (%(default)s)")
    overrides = port.add_argument(
        "--set",
        action="append",
        type=assignment,
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="a field of config.json, such as num_attention_heads=4, image_size=384, num_labels=10; repeatable",
    )
    completed(overrides, config_fields)
    port.add_argument(
        "--verify", action="store_true", help="compare with the original in torch, block by block; write a report"
    )
    port.set_defaults(run=run_port)

    pack = commands.add_parser(
        "pack",
        help="write a folder of images as records",
        description="Writes images into a few TFRecord files with an index, which are read faster than many small "
        "files. The images keep their bytes. Each is decoded once, to find those that are broken.",
    )
    pack.add_argument(
        "source", metavar="SOURCE", help="folder of class folders, zip of one, or list (.csv, .jsonl) of path and label"
    )
    pack.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make")
    pack.add_argument("--split", metavar="NAME", help="folder inside SOURCE, such as train or val")
    pack.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at an image that cannot be read, or leave it out and exit with status 1 (%(default)s)",
    )
    pack.add_argument("--shard-mb", type=positive, default=128, metavar="N", help="MiB to a file (%(default)s)")
    pack.set_defaults(run=run_pack)

    augment = commands.add_parser(
        "augment",
        help="draw the augmentations of an image",
        description="Draws a labelled grid: every operation of RandAugment at its magnitude, the other augmentations, "
        "and samples of the recipes of DeiT and DeiT III; with two images, mixup and CutMix too.",
    )
    augment.add_argument("images", nargs="+", metavar="IMAGE", help="one image, or two to mix")
    augment.add_argument("-o", "--output", required=True, metavar="FILE", help="picture to write, such as grid.png")
    augment.add_argument(
        "--auto-augment",
        default="rand-m9-mstd0.5-inc1",
        metavar="CONFIG",
        help="RandAugment as timm writes it (%(default)s)",
    )
    augment.add_argument(
        "--size", type=positive, default=224, metavar="N", help="side of a tile in pixels (%(default)s)"
    )
    augment.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (%(default)s)")
    augment.set_defaults(run=run_augment)
    modules = (
        train_command,
        evaluate_command,
        benchmark_command,
        attention_command,
        export_commands,
        serve_command,
    )
    for module in modules:
        module.add_parser(commands)

    completion = commands.add_parser(
        "completion",
        help="complete commands in a shell",
        description="Prints what makes a shell complete commands, options, names and files. In bash and zsh: "
        'eval "$(tfdeit completion bash)"; in fish: tfdeit completion fish | source',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    completion.set_defaults(run=run_completion)
    for each in (parser, *commands.choices.values()):
        add_manners(each)
    return parser


if __name__ == "__main__":
    sys.exit(main())
