"""The command `list`."""

import argparse

from tfdeit.cli.arguments import Parser
from tfdeit.presentation.hints import did_you_mean
from tfdeit.presentation.terminal import Failure, result, table

DESCRIPTION = (
    "Lists the published checkpoints: parameters and multiply-accumulates (derived from the architecture), and the "
    "accuracy on ImageNet-1k with the preprocessing that it was measured with."
)
EXAMPLES = """
tfdeit list
tfdeit list 'deit_*_distilled_*'
tfdeit list --json | jq -r 'select(.params < 1e7).name'
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `list`."""
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="names or aliases, with * and ? as wildcards")


def run(args: argparse.Namespace) -> int:
    """Prints the rows of the zoo whose names match."""
    from tfdeit import zoo

    rows = [zoo.find(name).to_dict() for name in zoo.list_models(args.pattern)]
    if not rows:
        hint = did_you_mean(args.pattern, zoo.BY_NAME)
        raise Failure(f"Expected a pattern that matches names. Received: {args.pattern!r}, which matches none.{hint}")
    cells = []
    for row in rows:
        result(row, None)
        accuracy = [f"{row[key]:.1f}" if row[key] else "-" for key in ("top1", "top5")]
        sizes = [str(row["image_size"]), f"{row['params'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f} G"]
        cells.append([row["name"], *sizes, *accuracy, row["accuracy_protocol"] or "-"])
    if not args.json:
        print(table(["name", "pixels", "params", "MACs", "top-1", "top-5", "measured with"], cells))
    return 0
