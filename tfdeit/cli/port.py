"""The command `port`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import dataclasses

from tfdeit.cli.arguments import Parser, add_settings, assignment, completed, model_names
from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.inference.classifier import start_keras
from tfdeit.presentation.terminal import Failure, note, progress, result

TARGETS = ("hf", "timm", "fb", "mmpretrain", "npz", "keras")
DESCRIPTION = (
    "Converts a checkpoint from and to the formats of Hugging Face, timm, Facebook, MMPretrain, Google and Keras. The "
    "format of SOURCE is found from the names in it; all of it fits, or nothing is written."
)
EXAMPLES = """
tfdeit port deit_tiny_patch16_224-a1311bcf.pth -o deit-tiny --name deit_tiny_patch16_224
tfdeit port deit-tiny -o deit-tiny.safetensors --to timm
tfdeit port best.pth -o mine --set num_labels=10 --verify
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `port`."""
    source = parser.add_argument(
        "source",
        metavar="SOURCE",
        help="directory in Hugging Face format; file: .safetensors .pth .bin .npz .h5 .keras; or the name of one "
        "to download, as `tfdeit list` and the hub have them",
    )
    completed(source, model_names)
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="directory for hf, else a file with the target's suffix"
    )
    name = parser.add_argument(
        "--name", metavar="ZOO_NAME", help="which published checkpoint SOURCE is, if it is a file (`tfdeit list`)"
    )
    completed(name, model_names)
    parser.add_argument("--to", choices=TARGETS, default="hf", help="what to write (%(default)s)")
    add_settings(
        parser,
        assignment,
        [field.name for field in dataclasses.fields(DeiTConfig)],
        "a field of config.json, such as num_attention_heads=4, image_size=384, num_labels=10; repeatable",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with the original in torch, block by block; write a report"
    )


def run(args: argparse.Namespace) -> int:
    """Converts a checkpoint, and compares it with the original if asked to."""
    from tfdeit.checkpoint import listing
    from tfdeit.checkpoint.port import port

    overrides = dict(args.overrides)
    ViTConfig.check_names(overrides)
    source = port(args.source, args.output, args.to, lambda n: progress(n, "porting"), args.name, **overrides)
    params = source.config.num_params
    about = {"output": args.output, "architecture": source.architecture, "params": params, "format": source.format}
    result(
        about | {"initialised": sorted(source.initialised), "unused": sorted(source.unused)},
        f"{args.output}: {source.architecture} of {params / 1e6:.1f} M parameters, from {source.format}",
    )
    for kind, names in (("newly initialised, to be trained", source.initialised), ("unused", source.unused)):
        if names:
            note(f"{kind}: {listing(names)}")
    return verify(source, args.output) if args.verify else 0


def verify(source, output: str) -> int:
    """Compares what was written with the original; returns the exit status."""
    start_keras()
    from tfdeit import parity

    try:
        report = parity.verify(source, output)
    except (parity.NoOracle, ValueError) as error:
        raise Failure(f"not verified: {error}") from error
    result(report, f"{parity.table(report)}\nreport: {parity.write_report(report, output)}")
    return 0 if report["passed"] else 1
