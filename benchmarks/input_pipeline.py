"""Speed of the input pipelines, from files to the values that a model takes, against transformers, PyTorch and timm.

    python benchmarks/input_pipeline.py --images DIR [--repeat 24] [--rounds 5] [--threads 2]

Prints one JSON line per contestant: images per second, the median over interleaved rounds; milliseconds of all cores
per image, which say more where other programs run; and ratios within each task (above 1 is faster). Tasks:

- evaluation, of the hf protocol: `eval_pipeline`; transformers' processor, one image after the other; a DataLoader with
  the same steps in Pillow.
- training, RandomResizedCrop and all of DeiT's augmentations: `train_pipeline`; a DataLoader with timm's.
- host: what the host does where the device resizes; and TensorFlow's decoder alone.

Needs torch, transformers and timm (`pip install --no-deps timm`).
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import torch
from augment import Timm
from PIL import Image
from transformers import DeiTImageProcessorPil

from tfdeit.data.loading import Loading
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.source import Source
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

BUFFERED = 6  # batches, at most


class Files(Source):
    """A list of files, of no class."""

    def __init__(self, paths):
        self.paths = paths
        super().__init__(np.arange(len(paths)) % 1000, map(str, range(1000)))

    def read(self, index):
        """See `Source`."""
        return self.paths[index].read_bytes()

    def name(self, index):
        """See `Source`."""
        return str(self.paths[index])


def tensor(image):
    """ToTensor and Normalize of torchvision."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(torch.tensor(IMAGENET_MEAN).view(3, 1, 1)).div_(torch.tensor(IMAGENET_STD).view(3, 1, 1))


class Evaluation(torch.utils.data.Dataset):
    """Resize, CenterCrop, ToTensor and Normalize."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        return tensor(image.crop((16, 16, 240, 240))), index


class Training(Evaluation):
    """RandomResizedCrop, flip, RandAugment, ToTensor, Normalize and random erasing; the last four are timm's."""

    def __init__(self, paths):
        super().__init__(paths)
        self.timm = Timm("bicubic")

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        top, left, height, width = random_box(*image.size[::-1])
        image = image.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.timm.erasing(tensor(self.timm.augment(image))), index


def random_box(height, width):
    """RandomResizedCrop's: the first of ten tries that fits, or the whole image."""
    for _ in range(10):
        area = random.uniform(0.08, 1) * height * width
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, height, width


def decode_only(paths, threads):
    files = tf.data.Dataset.from_tensor_slices(list(map(str, paths)))
    options = tf.data.Options()
    options.autotune.enabled = False  # as in ours: it can hold up the end
    return (
        files.map(lambda path: tf.io.decode_jpeg(tf.io.read_file(path), 3, dct_method="INTEGER_ACCURATE"), threads)
        .prefetch(2)
        .with_options(options)
    )


def exhaust(batches):
    for _ in batches:
        pass


def contestants(paths, threads, batch_size):
    source, loading = Files(paths), Loading(threads=threads)
    on_device = Loading(threads=threads, resize_on="device")
    theirs = DeiTImageProcessorPil(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    evaluation = eval_pipeline(source, batch_size, "hf", loading=loading)
    host = eval_pipeline(source, batch_size, "hf", loading=on_device)
    training = train_pipeline(source, batch_size, mix=False, loading=loading)
    loaders = {
        kind: torch.utils.data.DataLoader(
            kind(paths), batch_size, num_workers=threads, persistent_workers=True, drop_last=kind is Training
        )
        for kind in (Evaluation, Training)
    }
    decoded = decode_only(paths, threads)
    endless = iter(training.dataset())  # starting it takes seconds, once in a training
    # What waits in buffers was made while nobody measured.
    drain = {("training", "tfdeit"): lambda: exhaust(next(endless) for _ in range(BUFFERED))}
    return drain, {
        ("evaluation", "tfdeit"): lambda: exhaust(evaluation.dataset()),
        ("evaluation", "transformers"): lambda: exhaust(
            theirs(Image.open(path).convert("RGB"), return_tensors="np") for path in paths
        ),
        ("evaluation", "DataLoader"): lambda: exhaust(loaders[Evaluation]),
        ("training", "tfdeit"): lambda: exhaust(next(endless) for _ in range(training.steps_per_epoch)),
        ("training", "timm"): lambda: exhaust(loaders[Training]),
        ("host", "tfdeit"): lambda: exhaust(host.host()),
        ("host", "decode only"): lambda: exhaust(decoded),
    }


def cpu_seconds():
    """Of this process and its children that have ended; the workers' are read from /proc."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for child in Path("/proc/self/task").glob("*/children"):
        for pid in child.read_text().split():
            fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(drain, runs, rounds):
    """Median seconds, of the clock and of the processors, taking turns so that a slow spell hits all alike."""
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            drain.get(name, lambda: None)()
            start = np.array([time.perf_counter(), cpu_seconds()])
            run()
            if turn:  # the first one compiles, and starts workers
                seconds[name].append(np.array([time.perf_counter(), cpu_seconds()]) - start)
    return {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in seconds.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = Path(__file__).parent.parent / "examples" / "photos"
    parser.add_argument("--images", type=Path, default=photos, help="folder of JPEGs, searched through")
    parser.add_argument("--repeat", type=int, default=24, help="times that each photo is read in a round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of ours, and workers of theirs")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.images.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"}) * arguments.repeat
    if not paths:
        sys.exit(f"Expected JPEGs in {arguments.images}. Received: none")
    batch_size = min(arguments.batch, len(paths))
    medians = measure(*contestants(paths, arguments.threads, batch_size), arguments.rounds)
    for (task, name), (wall, processors) in medians.items():
        # Training takes full batches only.
        images = len(paths) // batch_size * batch_size if task == "training" else len(paths)
        line = {"benchmark": "input_pipeline", "task": task, "contestant": name, "images": images}
        line |= {
            "images_per_second": round(images / wall, 1),
            "cpu_ms_per_image": round(1e3 * processors / images, 2),
        }
        for (other_task, peer), other in medians.items():
            if name == "tfdeit" and other_task == task and peer != name:
                line[f"ratio_to_{peer.replace(' ', '_')}"] = round(other[0] / wall, 2)
                line[f"cpu_ratio_to_{peer.replace(' ', '_')}"] = round(other[1] / processors, 2)
        print(json.dumps({**line, "threads": arguments.threads}), flush=True)


if __name__ == "__main__":
    main()
