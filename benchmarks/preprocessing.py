"""Time of image preprocessing against transformers and against Pillow's bare resize.

    python benchmarks/preprocessing.py [--images DIR] [--rounds 9]

Prints one JSON line per contestant, without and with decoding: median milliseconds per image over interleaved rounds,
and the ratios to transformers' Pillow processor and to a bare `Image.resize` (below 1 is faster).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from transformers import DeiTImageProcessorPil

from tfdeit.preprocessing.processors import DeiTImageProcessor, DeiTImageProcessorFast


def contestants():
    host, device, inexact = DeiTImageProcessor(), DeiTImageProcessorFast(), DeiTImageProcessorFast(exact=False)
    theirs = DeiTImageProcessorPil()
    return {
        "transformers": lambda images: theirs(images, return_tensors="np"),
        "pillow_resize": lambda images: [np.asarray(image.resize((256, 256), 3)) for image in images],
        "host": lambda images: host(images, return_tensors="np"),
        "fast_exact": lambda images: device(images, return_tensors="np"),
        "fast_inexact": lambda images: inexact(images, return_tensors="np"),
    }


def load(paths):
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images


def measure(runs, rounds):
    """Median seconds of each run, taking turns so that a slow spell of the machine hits all alike."""
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = Path(__file__).parent.parent / "examples" / "photos"
    parser.add_argument("--images", type=Path, default=photos, help="folder of photos, searched through")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.images.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = load(paths)
    runs = contestants()
    reads_files = {"host", "fast_exact", "fast_inexact"}  # the others are given what a user would write
    for decode in (False, True):
        timed = {}
        for name, run in runs.items():
            source = (
                (lambda: images) if not decode else (lambda: paths) if name in reads_files else (lambda: load(paths))
            )
            timed[name] = lambda run=run, source=source: run(source())
        medians = measure(timed, arguments.rounds)
        for name, median in medians.items():
            line = {
                "benchmark": "preprocessing",
                "contestant": name,
                "decode": decode,
                "images": len(paths),
                "ms_per_image": round(1e3 * median / len(paths), 3),
                "ratio_to_transformers": round(median / medians["transformers"], 3),
                "ratio_to_pillow_resize": round(median / medians["pillow_resize"], 3),
                "pillow": PIL.__version__,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
