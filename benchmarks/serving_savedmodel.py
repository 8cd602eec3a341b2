"""Throughput of an exported SavedModel: bad images among good ones, and what the graph adds to the model.

    python benchmarks/serving_savedmodel.py [--images DIR] [--model NAME] [--rounds 9]

Prints one JSON line per contestant: median milliseconds for a batch of 32 over interleaved rounds, and the ratio to
the clean batch. "bad" replaces five images by broken ones, "pixels" starts from pixel values, and "host" is the
library's own processor and model.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from tfdeit import export_saved_model, get_model

BATCH = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = Path(__file__).parent.parent / "examples" / "photos"
    parser.add_argument("--images", type=Path, default=photos, help="folder of photos, searched through")
    parser.add_argument("--model", default="deit_small_patch16_224", help="name in the zoo; random weights")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.images.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    good = [paths[i % len(paths)].read_bytes() for i in range(BATCH)]
    bad = [b"", b"text", good[0][: len(good[0]) // 2], good[1][:100], b"GIF89a" + bytes(9)]
    mixed = [*good[:27], *bad]

    model = get_model(arguments.model, pretrained=False)
    processor = model.image_processor
    with tempfile.TemporaryDirectory() as directory:
        version = export_saved_model(model, processor, Path(directory, "model"))
        signatures = tf.saved_model.load(str(version)).signatures
        pixels = tf.constant(processor(good).pixel_values)
        serve, predict = signatures["serving_default"], signatures["predict_pixels"]
        forward = tf.function(lambda x: model(x).logits)
        runs = {
            "clean": lambda: serve(tf.constant(good))["status"].numpy(),
            "bad": lambda: serve(tf.constant(mixed))["status"].numpy(),
            "pixels": lambda: predict(pixels)["logits"].numpy(),
            "host": lambda: forward(processor(good).pixel_values).numpy(),
        }
        seconds = {name: [] for name in runs}
        for turn in range(arguments.rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn:  # the first one compiles
                    seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        line = {
            "benchmark": "serving_savedmodel",
            "model": arguments.model,
            "contestant": name,
            "batch": BATCH,
            "ms": round(1e3 * median, 1),
            "ratio_to_clean": round(median / medians["clean"], 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
