"""The command `export`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
from concurrent.futures import ThreadPoolExecutor

from tfdeit.cli.arguments import Parser, add_model, positive
from tfdeit.cli.photos import find_images
from tfdeit.exports import FORMATS, check_choice
from tfdeit.inference.classifier import load_classifier, prefetched, prepare
from tfdeit.labels import name_classes
from tfdeit.presentation.terminal import Failure, progress, result, silenced_stderr, spinner, table

CHECKED, CALIBRATED = 64, 300  # photos of a folder that are used at most


DESCRIPTION = (
    "Writes a classifier for TF Serving, LiteRT, ONNX Runtime, OpenVINO or PyTorch; loads what it wrote in that "
    "runtime, and compares the logits with TensorFlow's. If they differ by more than rounding explains, nothing is "
    "kept, and the exit status is 1."
)
EXAMPLES = """
tfdeit export --model run/model -o served
tfdeit export --model run/model --format litert --dtype int8 -o phone --check photos/
tfdeit export --model run/model --format openvino --dtype int8 --calibration photos/ -o fast
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `export`."""
    dtypes = "; ".join(f"{name}: {', '.join(row.dtypes)}" for name, row in FORMATS.items())
    add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="new or empty directory")
    parser.add_argument("--format", choices=FORMATS, default="savedmodel", help="what to write (%(default)s)")
    parser.add_argument("--dtype", default="float32", help=f"how to store the weights (%(default)s); {dtypes}")
    parser.add_argument("--check", metavar="FOLDER", help="photos to compare on; generated patterns if not given")
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="photos to calibrate openvino's int8 on; without them, only weights are rounded",
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="classes in an answer of savedmodel (5)")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one per line, instead of the model's")


def run(args: argparse.Namespace) -> int:
    """Exports a classifier, and prints how it compares with TensorFlow."""
    check_choice(args.format, args.dtype)
    model, processor = load_classifier(args.model, args.protocol)
    if args.labels:
        model.config = model.config.replace(id2label=name_classes(args.labels, model.config.num_labels))
    options = {"top_k": args.top_k} if args.top_k else {}
    if args.calibration:
        options["calibration"] = load_images(processor, args.calibration, CALIBRATED)
    images = load_images(processor, args.check, CHECKED) if args.check else None

    from tfdeit.exports.export import DifferentError, export_model

    with spinner() as step, silenced_stderr():
        choice = {"format": args.format, "dtype": args.dtype, "images": images, "step": step}
        try:
            report, failure = export_model(model, processor, args.output, **choice, **options), None
        except DifferentError as error:
            report, failure = error.report, error
    result({"output": args.output, **report._asdict()}, describe(report, args.output))
    if failure:
        raise Failure(str(failure))
    return 0


def load_images(processor, folder: str, limit: int):
    """Returns the pixel values (N, H, W, C) of at most `limit` photos, spread over a folder.

    Raises:
        ValueError: naming the photos that cannot be read, or if there are none.
    """
    import numpy as np

    paths, failed = find_images([folder])
    if failed:
        raise ValueError(f"Expected a folder with photos. Received: {failed[0]}.")
    paths = paths[:: -(-len(paths) // limit)]
    images = []
    with ThreadPoolExecutor() as pool, progress(len(paths), "reading photos") as advance:
        for batch in prefetched(pool, lambda path: prepare(processor, path), paths, 32):
            failed += [f"{path} ({reason})" for path, _, reason in batch if reason]
            images += [pixels for _, pixels, _ in batch]
            advance(len(batch))
    if failed:
        raise ValueError(f"Expected photos that can be read. Received: {', '.join(failed)}. Remove or replace them.")
    return np.stack(images)


def describe(report, output: str) -> str:
    """Returns the comparison as a table."""
    rows = {
        f"largest difference of a logit, {report.images} images": f"{report.max_difference:.2e}",
        f"relative error, at most {report.tolerance:.1e}": f"{report.relative_error:.2e}",
        "same most probable class": f"{report.top1_agreement:.1%}",
        "size": f"{report.bytes / 1e6:.1f} MB",
        "time of batch 1, TensorFlow float32 = 1": f"{report.latency_batch1:.2f}",
        "time of batch 8, TensorFlow float32 = 1": f"{report.latency_batch8:.2f}",
    }
    title = f"{output}: {report.format} in {report.dtype}"
    return table(["on the same images", ""], list(rows.items()), title)
