"""The command `pack`. Heavy imports are inside the function: the arguments are parsed without them."""

import argparse

from tfdeit.cli.arguments import Parser, positive
from tfdeit.cli.photos import report_failures
from tfdeit.presentation.terminal import complain, counted, progress, result, silenced_stderr

DESCRIPTION = (
    "Writes images into a few TFRecord files with an index, which are read faster than many small files. The images "
    "keep their bytes. Each is decoded once, to find those that are broken."
)
EXAMPLES = """
tfdeit pack photos -o packed
tfdeit pack imagenet.zip --split train -o packed/train --on-error skip
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `pack`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder of class folders, zip of one, or list (.csv, .jsonl) of path and label"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--split", metavar="NAME", help="folder inside SOURCE, such as train or val")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at an image that cannot be read, or leave it out and exit with status 1 (%(default)s)",
    )
    parser.add_argument("--shard-mb", type=positive, default=128, metavar="N", help="MiB per file (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Writes the images of a folder, a zip or a list as records."""
    with silenced_stderr():
        from tfdeit.data.records import RecordSource, pack
        from tfdeit.data.sources import open_source

    source = open_source(args.source, args.split)
    with progress(len(source), "packing") as advance:
        skipped = pack(source, args.output, args.on_error, args.shard_mb * 2**20, advance)
    packed = RecordSource(args.output)
    report_failures(skipped)
    images, classes, files = len(packed), len(packed.class_names), len(packed.files)
    result(
        {"output": args.output, "images": images, "classes": classes, "files": files, "skipped": len(skipped)},
        f"{args.output}: {counted(images, 'image')} of {counted(classes, 'class')} in {counted(files, 'file')}",
    )
    if skipped:
        complain(f"{len(skipped)} skipped")
    return 1 if skipped else 0
