"""The command `info`."""

import argparse

from tfdeit.cli.arguments import Parser, completed, model_names
from tfdeit.presentation.terminal import result

DESCRIPTION = "Prints the model card of a published checkpoint."
EXAMPLES = """
tfdeit info deit_small_distilled_patch16_224
tfdeit info facebook/deit-base-patch16-384 --json
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `info`."""
    name = parser.add_argument("name", metavar="NAME", help="name, alias, hub id or file name of a checkpoint")
    completed(name, model_names)


def run(args: argparse.Namespace) -> int:
    """Prints the model card of a row of the zoo."""
    from tfdeit import zoo

    row = zoo.find(args.name).to_dict()
    pixels, source = row["image_size"], row["hub_id"] and f"https://huggingface.co/{row['hub_id']}"
    accuracy = "not published with its preprocessing"
    if row["top1"]:
        accuracy = f"{row['top1']}% top-1, {row['top5']}% top-5, measured with protocol {row['accuracy_protocol']}"
    facts = {
        "what": f"{row['title']}; {row['paper']}",
        "aliases": ", ".join(row["aliases"]),
        "trained on": row["data"],
        "input": f"{pixels}x{pixels} RGB, {row['patch_size']}-pixel patches, protocol {row['protocol']}",
        "output": f"{row['classes']} classes" if row["classes"] else "features",
        "size": f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.2f} G multiply-accumulates",
        "accuracy": accuracy,
        "licence": row["licence"],
        "hub": source,
        "file": row["url"] and f"{row['url']} (sha256 {row['sha256'] or 'not published'})",
    }
    card = "\n".join(f"  {name:11}{value}" for name, value in facts.items() if value)
    use = f'inference_model({row["name"]!r}, "photo.jpg")'
    if not row["classes"]:
        use = f"get_model({row['name']!r}).extract_feat(pixel_values)"
    result(row, f"{row['name']}\n{card}\n\n  from tfdeit import {use.partition('(')[0]}\n  {use}")
    return 0
