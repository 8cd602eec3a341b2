"""The command `augment`. Heavy imports are inside the function: the arguments are parsed without them."""

import argparse

from tfdeit.cli.arguments import Parser, positive
from tfdeit.presentation.terminal import result, silenced_stderr

DESCRIPTION = (
    "Draws a labelled grid: every operation of RandAugment at its magnitude, the other augmentations, and samples of "
    "the recipes of DeiT and DeiT III; with two images, mixup and CutMix too."
)
EXAMPLES = """
tfdeit augment cat.jpg -o grid.png
tfdeit augment cat.jpg dog.jpg -o grid.png --auto-augment rand-m5 --size 96
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `augment`."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="one image, or two to mix")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="picture to write, such as grid.png")
    parser.add_argument(
        "--auto-augment",
        default="rand-m9-mstd0.5-inc1",
        metavar="CONFIG",
        help="RandAugment as timm writes it (%(default)s)",
    )
    parser.add_argument(
        "--size", type=positive, default=224, metavar="N", help="side of a tile in pixels (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draws the augmentations of one image, or of two, as a labelled grid."""
    with silenced_stderr():
        from tfdeit.augmentation.grid import augmentation_grid

        page = augmentation_grid(args.images, args.auto_augment, args.size, args.seed)
    page.save(args.output)
    result(
        {"output": args.output, "width": page.width, "height": page.height},
        f"{args.output}: {page.width}x{page.height} pixels",
    )
    return 0
