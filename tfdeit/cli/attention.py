"""The command `attention`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfdeit.cli.arguments import PICTURES, Parser, add_model, add_paths, positive
from tfdeit.cli.photos import find_images, report_failures
from tfdeit.inference.classifier import load_classifier, prefetched, prepare, softmax
from tfdeit.presentation.terminal import progress, result

DESCRIPTION = (
    "Draws what the class token, and the distillation token, attend to: attention rollout through all blocks, and each "
    "head of one block, over the part of the photo that the model sees."
)
EXAMPLES = """
tfdeit attention cat.jpg -o cat-attention.png
tfdeit attention photos/ -o maps --model run/model --block 5 --discard 0.9
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `attention`."""
    add_paths(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="picture to write, such as map.png; directory for several"
    )
    add_model(parser)
    parser.add_argument(
        "--block",
        type=int,
        default=-1,
        metavar="N",
        help="whose heads to show; from 0, or -1 for the last (%(default)s)",
    )
    parser.add_argument(
        "--discard",
        type=float,
        default=0.0,
        metavar="F",
        help="fraction of the weights that rollout drops (%(default)s)",
    )
    parser.add_argument(
        "--size", type=positive, metavar="N", help="side of a map in pixels (the photo's, from 224 to 384)"
    )
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images at a time (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draws where a model looks in images; names those that cannot be read."""
    paths, failed = find_images(args.paths)
    single = Path(args.output).suffix.lower() in PICTURES
    if single and len(paths) > 1:
        raise ValueError(
            f"Expected a directory to write to, for there are {len(paths)} images. Received: {args.output}"
        )
    if paths:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        failed += draw_all(paths, single, args)
    return report_failures(failed)


def draw_all(paths: list[str], single: bool, args: argparse.Namespace) -> list[str]:
    """Writes a picture for each image; returns what could not be read."""
    model, processor = load_classifier(args.model, args.protocol)
    failed, pages = [], [args.output] if single else page_names(paths, Path(args.output))
    items = list(zip(pages, paths, strict=True))
    with ThreadPoolExecutor() as pool, progress(len(paths), "drawing") as advance:
        for group in prefetched(pool, lambda item: (item[0], *prepare(processor, item[1])), items, args.batch_size):
            failed += [f"{path}: {reason}" for _, path, _, reason in group if reason]
            good = [(page, path, pixels) for page, path, pixels, reason in group if not reason]
            looks = look(model, [pixels for _, _, pixels in good], args.block, args.discard) if good else []
            for (page, path, _), (maps, label, probability) in zip(good, looks, strict=True):
                draw_page(path, processor, maps, (label, probability), args.size).save(page)
                about = {"path": path, "output": str(page), "label": label, "probability": probability}
                result(about, str(page))
            advance(len(group))
    return failed


def look(model, pixels: list, block: int, discard: float) -> list[tuple[dict, str, float]]:
    """Returns attention maps, label and probability of each image, given as pixel values (H, W, 3)."""
    import numpy as np
    from keras import ops

    from tfdeit.network.attention_maps import attention_maps

    outputs, config = model(np.stack(pixels), output_attentions=True), model.config
    maps = attention_maps(outputs.attentions, config.num_prefix_tokens, config.grid, block, discard)
    scores = softmax(ops.convert_to_numpy(outputs.logits))
    return [
        ({name: heat[index] for name, heat in maps.items()}, config.id2label[int(row.argmax())], float(row.max()))
        for index, row in enumerate(scores)
    ]


def page_names(paths: list[str], directory: Path) -> list[Path]:
    """Returns a file in a directory, which is made, for each image; names that come twice get a number."""
    directory.mkdir(parents=True, exist_ok=True)
    names, taken = [], set()
    for path in paths:
        name, number = f"{Path(path).stem}.png", 1
        while name in taken:
            number += 1
            name = f"{Path(path).stem}-{number}.png"
        taken.add(name)
        names.append(directory / name)
    return names


def draw_page(path: str, processor, maps: dict, answer: tuple[str, float], size: int | None = None):
    """Draws the part of an image that the model sees, and its maps over it.

    The first row has the photo and each token's rollout, the others the heads of each token.

    Args:
        path: of the image.
        processor: of the model.
        maps: of `attention_maps`, of this image.
        answer: label and probability.
        size: side of a map, in pixels; None for that of the part that the model sees, from 224 to 384.

    Returns:
        An RGB Pillow image.
    """
    import numpy as np
    from PIL import Image

    from tfdeit.preprocessing.images import decode_pillow
    from tfdeit.presentation.grids import heat_bar, image_grid, overlay

    image = decode_pillow(path, processor.exif_orientation, processor.do_convert_rgb)
    (height, width), (top, left, rows, columns) = processor.geometry(image.height, image.width)
    scale = image.width / width, image.height / height
    size = size or int(np.clip(max(columns * scale[0], rows * scale[1]), 224, 384))
    box = (left * scale[0], top * scale[1], (left + columns) * scale[0], (top + rows) * scale[1])
    # `transform`, and not `crop`: what lies outside of the image is black, at fractions of pixels too.
    photo = np.asarray(image.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC))
    first = [("what the model sees", photo)]
    tokens: dict[str, list] = {}
    for name, heat in maps.items():
        token, _, kind = name.partition(": ")
        drawn = overlay(photo, heat)
        if kind == "rollout":
            first.append((f"{token}: rollout", drawn))
        else:
            tokens.setdefault(token, []).append((kind, drawn))
    first.append(("share of the maximum", heat_bar(size)))
    label, probability = answer
    # The mark keeps the number to the right of a label that is written leftwards.
    sections = [(f"{Path(path).name}: {label}\u200e {probability:.1%}", first), *tokens.items()]
    return image_grid(sections, size, columns=max(len(first), min(max(map(len, tokens.values())), 7)))
