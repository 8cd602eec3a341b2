"""The command line. Arguments are parsed before anything heavy is imported."""

import argparse
import os
import sys

from tfdeit import (
    attention_command,
    benchmark_command,
    evaluate_command,
    export_commands,
    serve_command,
    train_command,
)
from tfdeit.arguments import add_dtype, add_model, assignment, positive
from tfdeit.commands import run_augment, run_info, run_list, run_pack, run_port, run_predict

TARGETS = ("hf", "timm", "fb", "mmpretrain", "npz", "keras")


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit status: 0, 1 if some inputs could not be used, 2 for wrong usage.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="tfdeit", description="DeiT and ViT image classifiers for Keras and TensorFlow."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", dest="format", action="store_const", const="json", help="print one JSON object a line")
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="print CSV, one line a class")
    predict.set_defaults(run=run_predict, format="text")

    zoo = commands.add_parser(
        "list",
        help="list the published checkpoints",
        description="Lists the published checkpoints: parameters and multiply-accumulates (derived from the "
        "architecture), and the accuracy on ImageNet-1k with the preprocessing that it was measured with.",
    )
    zoo.add_argument("pattern", nargs="?", metavar="PATTERN", help="names or aliases, with * and ? as wildcards")
    zoo.add_argument("--json", action="store_true", help="print one JSON object a line")
    zoo.set_defaults(run=run_list)

    info = commands.add_parser("info", help="describe a published checkpoint", description="Prints a model card.")
    info.add_argument("name", metavar="NAME", help="name, alias, hub id or file name of a checkpoint")
    info.set_defaults(run=run_info)

    port = commands.add_parser(
        "port",
        help="convert a checkpoint",
        description="Converts a checkpoint from and to the formats of Hugging Face, timm, Facebook, MMPretrain, Google "
        "and Keras. The format of SOURCE is found from the names in it; all of it fits, or nothing is written.",
    )
    port.add_argument(
        "source",
        metavar="SOURCE",
        help="directory in Hugging Face format; file: .safetensors .pth .bin .npz .h5 .keras; or the name of one "
        "to download, as `tfdeit list` and the hub have them",
    )
    port.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="directory for hf, else a file with the target's suffix"
    )
    port.add_argument(
        "--name", metavar="ZOO_NAME", help="which published checkpoint SOURCE is, where it is a file (`tfdeit list`)"
    )
    port.add_argument("--to", choices=TARGETS, default="hf", help="what to write (%(default)s)")
    port.add_argument(
        "--set",
        action="append",
        type=assignment,
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="a field of config.json, such as num_attention_heads=4, image_size=384, num_labels=10; repeatable",
    )
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
