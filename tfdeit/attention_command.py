"""What `tfdeit attention` does. Heavy imports are inside the function: the arguments are parsed without them."""

import argparse
from pathlib import Path

from tfdeit.arguments import PICTURES, add_model, positive
from tfdeit.commands import find_images, load_classifier, prefetched, prepare, report_failures, softmax
from tfdeit.terminal import progress, result, silenced_stderr


def add_parser(commands):
    """Adds the parser of `attention`."""
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
    add_model(attention)
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
    attention.set_defaults(run=run_attention)


def run_attention(args: argparse.Namespace) -> int:
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
    from concurrent.futures import ThreadPoolExecutor

    model, processor = load_classifier(args.model, args.protocol)
    with silenced_stderr():
        import numpy as np
        from keras import ops

        from tfdeit.attention_maps import attention_maps

    failed, pages = [], [args.output] if single else page_names(paths, Path(args.output))
    items = list(zip(pages, paths, strict=True))
    with ThreadPoolExecutor() as pool, progress(len(paths), "drawing") as advance:
        for group in prefetched(pool, lambda item: (item[0], *prepare(processor, item[1])), items, args.batch_size):
            failed += [f"{path}: {reason}" for _, path, _, reason in group if reason]
            good = [row for row in group if not row[-1]]
            if good:
                pixel_values = np.stack([values for _, _, values, _ in good])
                outputs, config = model(pixel_values, output_attentions=True), model.config
                prefix, grid = config.num_prefix_tokens, config.grid
                maps = attention_maps(outputs.attentions, prefix, grid, args.block, args.discard)
                scores = softmax(ops.convert_to_numpy(outputs.logits))
                answers = [(config.id2label[row.argmax()], float(row.max())) for row in scores]
                for index, (page, path, _, _) in enumerate(good):
                    own, (label, probability) = {name: heat[index] for name, heat in maps.items()}, answers[index]
                    draw_page(path, processor, own, f"{label} {probability:.1%}", args.size).save(page)
                    about = {"path": path, "output": str(page), "label": label, "probability": probability}
                    result(about, str(page))
            advance(len(group))
    return failed


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


def draw_page(path: str, processor, maps: dict, answer: str, size: int):
    """Draws the part of an image that the model sees, and its maps over it; a section for each token."""
    import numpy as np
    from PIL import Image

    from tfdeit.charts import heat_bar, image_grid, overlay
    from tfdeit.images import decode_pillow

    image = decode_pillow(path, processor.exif_orientation, processor.do_convert_rgb)
    (height, width), (top, left, rows, columns) = processor.geometry(image.height, image.width)
    scale = image.width / width, image.height / height
    box = (left * scale[0], top * scale[1], (left + columns) * scale[0], (top + rows) * scale[1])
    # `transform`, and not `crop`: what lies outside of the image is black, at fractions of pixels too.
    photo = np.asarray(image.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC))
    sections = {f"{Path(path).name}: {answer}": [("what the model sees", photo), ("of the maximum", heat_bar(size))]}
    for name, heat in maps.items():
        token, _, kind = name.partition(": ")
        sections.setdefault(token, []).append((kind, overlay(photo, heat)))
    return image_grid(sections.items(), size, columns=max(min(len(maps), 6), 2))
