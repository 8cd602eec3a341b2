"""Every export against TensorFlow in float32: difference, size, and time as a ratio.

    python benchmarks/exports.py [--models NAME ...] [--formats NAME ...] [--markdown]

Prints one JSON line per model, format and dtype: the difference of the logits on generated images, the size on disk,
and the median time for 1 and 8 images divided by TensorFlow's, both measured in turns (below 1 is faster). Published
models get random weights; deit_micro_cifar10 has its own. Each export is a process of its own, and so its peak memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfdeit.exports import FORMATS

MODELS = ("deit_micro_cifar10", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224")


def measure(name, format, dtype, calibrate):
    from tfdeit import export_model, get_model
    from tfdeit.exports.comparison import generate_images

    model = get_model(name, pretrained=name == "deit_micro_cifar10")
    options = {"calibration": generate_images(model.image_processor, 32)} if calibrate else {}
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "export")
        report = export_model(model, model.image_processor, output, format=format, dtype=dtype, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    line = {"benchmark": "exports", "model": name, "calibrated": calibrate, **report._asdict(), "peak_bytes": peak}
    print(json.dumps(line))


def row(line):
    dtype = line["dtype"] + (", calibrated" if line["calibrated"] else "")
    numbers = [f"{line['max_difference']:.1e}", f"{line['relative_error']:.1e}", f"{line['tolerance']:.1e}"]
    numbers += [f"{line['bytes'] / 1e6:.1f}", f"{line['latency_batch1']:.2f}", f"{line['latency_batch8']:.2f}"]
    return f"| {line['model']} | {line['format']} | {dtype} | {' | '.join(numbers)} | {line['peak_bytes'] / 1e9:.1f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--markdown", action="store_true", help="print the rows of docs/exports.md instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(*json.loads(args.one))
        return
    for model in args.models:
        for name in args.formats:
            cases = [(dtype, False) for dtype in FORMATS[name].dtypes]
            cases += [("int8", True)] if name == "openvino" else []
            for dtype, calibrate in cases:
                one = json.dumps([model, name, dtype, calibrate])
                command = [sys.executable, __file__, "--one", one]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{one}: {done.stderr}")
                print(row(json.loads(done.stdout)) if args.markdown else done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
