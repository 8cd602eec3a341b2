"""Every export against TensorFlow in float32: difference, size, and time as a ratio.

    python benchmarks/exports.py [--models NAME ...] [--formats NAME ...] [--markdown]

Prints one JSON line per model, format and dtype: the difference of the logits on generated images, the size on disk,
and the median time for 1 and 8 images divided by TensorFlow's, both measured in turns (below 1 is faster). Published
models get random weights; deit_micro_cifar10 has its own. peak_bytes is the memory of the process up to then, so that
of an export where it is the first.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfdeit import export_model, get_model
from tfdeit.exports import FORMATS
from tfdeit.exports.comparison import generate_images

MODELS = ("deit_micro_cifar10", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224")


def measure(model, format, dtype, calibrate):
    options = {"calibration": generate_images(model.image_processor, 32)} if calibrate else {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(sys.stderr):
        output = Path(directory, "export")
        report = export_model(model, model.image_processor, output, format=format, dtype=dtype, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    return report._asdict() | {"calibrated": calibrate, "seconds": time.perf_counter() - start, "peak_bytes": peak}


def markdown(line):
    dtype = line["dtype"] + (", calibrated" if line["calibrated"] else "")
    numbers = [f"{line['max_difference']:.1e}", f"{line['relative_error']:.1e}", f"{line['tolerance']:.1e}"]
    numbers += [f"{line['bytes'] / 1e6:.1f}", f"{line['latency_batch1']:.2f}", f"{line['latency_batch8']:.2f}"]
    return f"| {line['model']} | {line['format']} | {dtype} | {' | '.join(numbers)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--markdown", action="store_true", help="print the rows of docs/exports.md instead")
    args = parser.parse_args()
    for name in args.models:
        model = get_model(name, pretrained=name == "deit_micro_cifar10")
        for format in args.formats:
            cases = [(dtype, False) for dtype in FORMATS[format].dtypes]
            cases += [("int8", True)] if format == "openvino" else []
            for case in cases:
                line = {"benchmark": "exports", "model": name, **measure(model, format, *case)}
                print(markdown(line) if args.markdown else json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
