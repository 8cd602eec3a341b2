"""The command line. Arguments are parsed before anything heavy is imported."""

import argparse
import contextlib
import json
import math
import os
import sys

from tfdeit.attention_command import run_attention
from tfdeit.commands import PROTOCOLS, run_augment, run_info, run_list, run_pack, run_port, run_predict
from tfdeit.evaluate_command import run_evaluate
from tfdeit.export_commands import run_export
from tfdeit.exports import FORMATS
from tfdeit.serve_command import run_serve
from tfdeit.train_command import run_train

DEFAULT_MODEL = "deit_micro_cifar10"
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
    predict.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    predict.add_argument("--top-k", type=positive, default=3, metavar="K", help="classes per image (%(default)s)")
    predict.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    predict.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )
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
    add_train(commands)
    add_evaluate(commands)
    add_attention(commands)
    add_export(commands)
    add_serve(commands)
    return parser


def add_train(commands):
    """Adds the parser of `train`."""
    train = commands.add_parser(
        "train",
        help="train, distil or fine-tune a model",
        description="Trains a model on labelled images, by a recipe. RUN gets checkpoints, history.csv, curves.png, "
        "TensorBoard's logs, and at the end the model, as a directory that the other commands take. SIGTERM and Ctrl-C "
        "save and stop. Recipes: deit_pretrain, deit_distill_hard, deit_distill_soft, deit_finetune_384, vit_finetune, "
        "deit3_pretrain, simmim, linear_probe, finetune, cifar10_micro.",
    )
    train.add_argument("--recipe", metavar="R", help="name of a recipe, or a file such as RUN/recipe.toml")
    train.add_argument(
        "--data",
        metavar="DATA",
        help="folder of train/CLASS/ and val/CLASS/, or of CLASS/ (a fifth is kept to evaluate on); zip, list or "
        "packed records of the same",
    )
    train.add_argument("--val", dest="validation", metavar="DATA", help="images to evaluate on, if they are elsewhere")
    train.add_argument(
        "--model", metavar="NAME", help="directory, hub id, or name: where to start from, or its architecture"
    )
    train.add_argument("--out", required=True, metavar="RUN", help="directory of the run")
    train.add_argument(
        "--teacher", metavar="T", help=".keras file, SavedModel, name in keras.applications, or what --model takes"
    )
    train.add_argument(
        "--teacher-pixels",
        choices=("0..255", "0..1", "-1..1", "imagenet"),
        help="what a .keras file or SavedModel takes (0..255)",
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in RUN, if there is one")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="a field of the recipe, such as epochs=10, lr=1e-4, batch_size=64, distillation=hard; repeatable",
    )
    train.set_defaults(run=run_train)


def add_attention(commands):
    """Adds the command `attention`."""
    attention = commands.add_parser(
        "attention",
        help="draw where a model looks",
        description="Draws what the class token, and the distillation token, attend to: attention rollout through all "
        "blocks, and each head of one block, over the part of the photo that the model sees.",
    )
    attention.add_argument("paths", nargs="+", metavar="PATH", help="image, folder (searched deeply), glob, or -")
    attention.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="picture to write, such as map.png; directory for several"
    )
    attention.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    attention.add_argument(
        "--block",
        type=int,
        default=-1,
        metavar="N",
        help="whose heads to show; from 0, or -1 for the last (%(default)s)",
    )
    attention.add_argument(
        "--discard",
        type=float,
        default=0.0,
        metavar="F",
        help="fraction of the weights that rollout drops (%(default)s)",
    )
    attention.add_argument(
        "--size", type=positive, default=224, metavar="N", help="side of a map in pixels (%(default)s)"
    )
    attention.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="images at a time (%(default)s)"
    )
    attention.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )
    attention.set_defaults(run=run_attention)


def add_serve(commands):
    """Adds the parser of `serve`."""
    serve = commands.add_parser(
        "serve",
        help="serve a SavedModel on this machine",
        description="Serves the SavedModel in DIR/1 (or the highest number, also one that appears later) with "
        "TensorFlow Serving's REST and gRPC protocols, and a web page. For production there is TensorFlow Serving.",
    )
    serve.add_argument(
        "directory", metavar="DIR", help="directory with numbered versions, as `tfdeit export` writes it"
    )
    options = {
        "--port": (port_number, 8501, "N", "port of REST and the web page; 0 takes a free one"),
        "--grpc-port": (port_number, 8500, "N", "port of gRPC"),
        "--host": (str, "127.0.0.1", "ADDRESS", "address to listen on; there is no authentication"),
        "--model-name": (str, None, "NAME", "name in URLs and requests (that of DIR)"),
        "--max-batch-size": (positive, 32, "N", "rows that are executed together"),
        "--batch-timeout": (natural, 2, "MS", "milliseconds that a request waits for others"),
        "--workers": (positive, None, "N", "batches executed at the same time (number of cores)"),
        "--max-queue": (positive, 256, "N", "requests accepted and not yet answered"),
        "--max-body": (positive, 32, "MIB", "size of a request"),
        "--max-instances": (positive, 128, "N", "rows of a request"),
        "--grace": (natural, 30, "S", "seconds to finish accepted requests after a signal"),
    }
    for name, (kind, default, metavar, text) in options.items():
        shown = "" if default is None else " (%(default)s)"
        serve.add_argument(name, type=kind, default=default, metavar=metavar, help=text + shown)
    serve.add_argument(
        "--version-label",
        action="append",
        type=version_label,
        default=[],
        metavar="LABEL=VERSION",
        dest="labels",
        help="serve this version too, at /labels/LABEL; repeatable",
    )
    serve.add_argument("--no-access-log", dest="access_log", action="store_false", help="do not log each request")
    serve.set_defaults(run=run_serve)


def add_evaluate(commands):
    """Adds the command `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure the accuracy of a model",
        description="Measures accuracy, loss and calibration of a classifier on labelled images, class by class. "
        "Images that cannot be read are named on stderr and left out, and the exit status is 1.",
    )
    evaluate.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder of class folders, zip of one, list (.csv, .jsonl) of path and label, or what `tfdeit pack` wrote",
    )
    evaluate.add_argument("--split", metavar="NAME", help="folder inside SOURCE, such as val or test")
    evaluate.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )
    evaluate.add_argument(
        "--head",
        choices=("both", "class", "distillation"),
        default="both",
        help="of a distilled model: the mean of its heads, or one of them (%(default)s)",
    )
    evaluate.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument(
        "-o", "--output", metavar="DIR", help="new or empty directory for tables, charts, and the state of --resume"
    )
    evaluate.add_argument("--resume", action="store_true", help="go on where the evaluation in DIR was interrupted")
    evaluate.set_defaults(run=run_evaluate)


def add_export(commands):
    """Adds the command `export`."""
    dtypes = "; ".join(f"{name}: {', '.join(row.dtypes)}" for name, row in FORMATS.items())
    export = commands.add_parser(
        "export",
        help="write a model for another runtime",
        description="Writes a classifier for TF Serving, LiteRT, ONNX Runtime, OpenVINO or PyTorch; loads what it "
        "wrote in that runtime, and compares the logits with TensorFlow's. If they differ by more than rounding "
        "explains, nothing is kept, and the exit status is 1.",
    )
    export.add_argument(
        "--model", default=DEFAULT_MODEL, help="directory in Hugging Face format, hub id, or name (%(default)s)"
    )
    export.add_argument("-o", "--output", required=True, metavar="DIR", help="new or empty directory")
    export.add_argument("--format", choices=FORMATS, default="savedmodel", help="what to write (%(default)s)")
    export.add_argument("--dtype", default="float32", help=f"how to store the weights (%(default)s); {dtypes}")
    export.add_argument("--check", metavar="FOLDER", help="photos to compare on; generated patterns if not given")
    export.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="photos to fit openvino's int8 to; without them, only weights are rounded",
    )
    export.add_argument("--top-k", type=positive, metavar="K", help="classes in an answer of savedmodel (5)")
    export.add_argument("--labels", metavar="FILE", help="names of the classes, one a line, instead of the model's")
    export.add_argument(
        "--protocol", choices=PROTOCOLS, help="resize and crop as this published evaluation, not as the model's own"
    )
    export.set_defaults(run=run_export)


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


if __name__ == "__main__":
    sys.exit(main())
