"""Speed of the augmentations against timm (Pillow) and Keras' own layers.

    python benchmarks/augment.py [--images DIR] [--batch 256] [--size 224] [--rounds 7]

Prints one JSON line per contestant: images per second, the median over interleaved rounds, and the ratios to timm in
one process and in two, and to Keras (above 1 is faster). "randaugment" is RandAugment alone; "train" is all that DeiT
does to a decoded and cropped image: flip, RandAugment, normalisation, erasing. Needs torch, and timm
(`pip install --no-deps timm`).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image

CONFIG = "rand-m9-mstd0.5-inc1"


def load(folder, size, count):
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not paths:
        sys.exit(f"Expected photos in {folder}. Received: none")
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.BICUBIC)) for path in paths]
    return np.stack([images[index % len(images)] for index in range(count)])


class Timm:
    """timm's transforms, on Pillow images, in this process or in a pool of them."""

    def __init__(self, interpolation):
        import torch

        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from oracles import import_timm

        torch.set_num_threads(1)
        data = import_timm().data
        hparams = {"img_mean": (124, 116, 104)}
        if interpolation != "random":
            hparams["interpolation"] = Image.Resampling[interpolation.upper()]
        self.randaugment = data.auto_augment.rand_augment_transform(CONFIG, hparams)
        self.erasing = data.random_erasing.RandomErasing(0.25, mode="pixel", device="cpu")
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )

    def augment(self, image):
        """RandAugment of a PIL image."""
        while True:
            try:
                return self.randaugment(image)
            except ValueError:  # Pillow 13 refuses posterising to 0 bits, which timm asks for at magnitude 10
                continue

    def one(self, pixels, task):
        """One image (H, W, 3) uint8 through a task."""
        import torch

        image = Image.fromarray(pixels)
        if task == "randaugment":
            return np.asarray(self.augment(image))
        if np.random.rand() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(self.augment(image)).transpose(2, 0, 1).copy()).float().div(255)
        return self.erasing((tensor - self.mean) / self.std).numpy()


def start_worker(interpolation, images):
    global WORKER, IMAGES
    WORKER, IMAGES = Timm(interpolation), images


def work(job):
    """As a DataLoader's worker, without the cost of handing its results over."""
    task, indices = job
    for index in indices:
        WORKER.one(IMAGES[index], task)


def contestants(images, interpolation, pool):
    import keras
    import tensorflow as tf

    from tfdeit.augmentation.assembly import train_augmentation
    from tfdeit.augmentation.randaugment import RandAugment
    from tfdeit.augmentation.recipe import Recipe

    count = len(images)
    tensor, rounds = tf.constant(images), iter(range(1 << 30))
    ours = {
        "randaugment": RandAugment(CONFIG, interpolation=interpolation),
        "train": train_augmentation(Recipe(auto_augment=CONFIG, interpolation=interpolation)),
    }
    timm = Timm(interpolation)
    stock = tf.function(keras.layers.RandAugment(value_range=(0, 255)))
    halves = np.array_split(np.arange(count), 2)

    def run(task):
        return lambda: ours[task](tensor, tf.stack([tf.range(count), tf.fill([count], next(rounds))], 1)).numpy()

    def baseline(task):
        return lambda: [timm.one(pixels, task) for pixels in images]

    def pooled(task):
        return lambda: pool.map(work, [(task, half) for half in halves], chunksize=1)

    runs = {}
    for task in ours:
        runs |= {(task, "tfdeit"): (run(task), 1), (task, "timm, 1 process"): (baseline(task), 1)}
        runs[task, "timm, 2 processes"] = pooled(task), 1
    part = max(1, count // 16)  # it is slow
    runs["randaugment", "keras"] = (lambda: stock(tensor[:part], training=True).numpy()), count / part
    return runs


def cpu_ms(values, count):
    """Time of all cores; on a busy machine it says more than the time that passed."""
    return round(1e3 * statistics.median(values) / count, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = Path(__file__).parent.parent / "examples" / "photos"
    parser.add_argument("--images", type=Path, default=photos, help="folder of photos, searched through")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--interpolation", default="bicubic", choices=("bicubic", "bilinear", "random"))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    images = load(arguments.images, arguments.size, arguments.batch)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, start_worker, (arguments.interpolation, images)) as pool:
        runs = contestants(images, arguments.interpolation, pool)
        seconds, cpu = ({name: [] for name in runs} for _ in range(2))
        for turn in range(arguments.rounds + 1):
            for name, (function, factor) in runs.items():
                start, used = time.perf_counter(), time.process_time()
                function()
                if turn:  # the first one compiles
                    seconds[name].append((time.perf_counter() - start) * factor)
                    cpu[name].append((time.process_time() - used) * factor)
    for (task, name), values in seconds.items():
        ratios = {
            f"ratio_to_{peer}": round(
                statistics.median(b / a for a, b in zip(values, seconds[task, peer], strict=True)), 2
            )
            for peer in ("timm, 1 process", "timm, 2 processes", "keras")
            if (task, peer) in seconds
        }
        line = {
            "benchmark": "augment",
            "task": task,
            "contestant": name,
            "size": arguments.size,
            "interpolation": arguments.interpolation,
            "images_per_second": round(arguments.batch / statistics.median(values)),
            "fastest": round(arguments.batch / min(values)),
            **({} if name.endswith("processes") else {"cpu_ms_per_image": cpu_ms(cpu[task, name], arguments.batch)}),
            **ratios,
            "cores": os.cpu_count(),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
