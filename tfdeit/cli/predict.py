"""The command `predict`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import csv
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

from tfdeit.cli.arguments import Parser, add_dtype, add_model, add_paths, positive
from tfdeit.cli.photos import find_images, report_failures
from tfdeit.inference.classifier import load_classifier, prefetched, prepare, softmax
from tfdeit.presentation.terminal import note, progress, result

DESCRIPTION = (
    "Classifies images and prints the most probable classes of each. Images that cannot be read are named on stderr, "
    "the others are classified all the same, and the exit status is 1."
)
EXAMPLES = """
tfdeit predict cat.jpg
tfdeit predict holiday/ 'more/**/*.jpg' --model run/model --csv > labels.csv
find photos -newer stamp | tfdeit predict - --json --top-k 1
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `predict`."""
    add_paths(parser)
    add_model(parser)
    add_dtype(parser)
    parser.add_argument("--top-k", type=positive, default=3, metavar="K", help="classes per image (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument("--csv", action="store_true", help="print CSV, one line per class")


def run(args: argparse.Namespace) -> int:
    """Classifies images: decodes a batch in threads while the model works on the one before."""
    if args.json and args.csv:
        raise ValueError("Expected one of --json and --csv. Received: both.")
    paths, failed = find_images(args.paths)
    if not paths:
        return report_failures(failed or ["no images found"])
    report_failures(failed)
    model, processor = load_classifier(args.model, args.protocol, args.dtype)

    from tfdeit.network.memory import fitting_batch

    config = model.config
    height, width = config.image_hw
    most = fitting_batch(config, args.batch_size, args.dtype)
    if most < args.batch_size:
        note(f"{most} images at a time, as no more fit into memory")
    preprocessing = f"protocol {args.protocol}" if args.protocol else "the model's own preprocessing"
    note(
        f"{args.model}: {type(model).__name__}, {model.count_params() / 1e6:.1f} M parameters, {width}x{height} "
        f"pixels, {config.num_labels} classes; {preprocessing}"
    )
    write = csv_writer() if args.csv else line_writer(paths)
    with ThreadPoolExecutor() as pool, progress(len(paths), "classifying") as advance:
        for batch in prefetched(pool, lambda path: prepare(processor, path), paths, args.batch_size):
            report_failures(reasons := [f"{path}: {reason}" for path, _, reason in batch if reason])
            failed += reasons
            usable = [(path, pixels) for path, pixels, reason in batch if not reason]
            most = classify(model, usable, most, args.top_k, write)
            advance(len(batch))
    return 1 if failed else 0


def classify(model, images: list, most: int, top_k: int, write) -> int:
    """Classifies images, pairs of a path and pixel values (H, W, 3), and writes the `top_k` classes of each.

    Args:
        model: a classifier.
        images: the images of a batch.
        most: how many to compute at a time.
        top_k: how many classes to write.
        write: called with a path and its classes, triples of label, index and probability.

    Returns:
        How many fitted into memory at a time.
    """
    import numpy as np

    from tfdeit.network.memory import run_split

    if not images:
        return most
    pixels = np.stack([values for _, values in images])
    parts, most = run_split(lambda part: model.predict_on_batch(part).logits, pixels, most)
    id2label = model.config.id2label
    for (path, _), scores in zip(images, softmax(np.concatenate(parts).astype("float32")), strict=True):
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        write(path, [(id2label[index], index, float(scores[index])) for index in best])
    return most


def line_writer(paths: list[str]):
    """Prints one line per image, or a JSON object: its path and its classes."""
    width = min(max(map(len, paths)), 60)

    def write(path, classes):
        predictions = [{"label": label, "index": index, "probability": score} for label, index, score in classes]
        shown = "  ".join(f"{label} {score:.1%}" for label, _, score in classes)
        result({"path": path, "predictions": predictions}, f"{path:{width}}  {shown}")

    return write


def csv_writer():
    """Prints a header, and one line of CSV per class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "index", "probability"])

    def write(path, classes):
        writer.writerows([path, rank, *values] for rank, values in zip(itertools.count(1), classes, strict=False))
        sys.stdout.flush()

    return write
