"""Trains a micro DeiT, as the embedded one began: CIFAR-10, plain Keras `fit`, flip and crop, cosine schedule.

    python examples/train_cifar10.py --data cifar10-images.zip --out runs/deit_micro_cifar10

The zip holds train/<class>/*.jpg and test/<class>/*.jpg, 32x32 pixels. The default 20 epochs took 97 minutes on two
busy cores. The result is a directory that `from_pretrained`, transformers and `tfdeit predict --model` read. It ends by
evaluating that directory, as stored in float16, on the test images, and prints one JSON line.
"""

import argparse
import io
import json
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tfdeit.config import DeiTConfig
from tfdeit.network.models import TFDeiTForImageClassificationWithTeacher
from tfdeit.preprocessing.processors import DeiTImageProcessor
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

SIZE, PADDING = 32, 4
# Photos of other sizes: short side to 32 pixels, then the central square.
PROCESSOR = DeiTImageProcessor(
    size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
)


def read_split(path: Path, split: str, limit: int | None):
    """Returns the split's images, uint8 (N, 32, 32, 3), labels, int32 (N,), and the class names in sorted order."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{split}/") and name.endswith(".jpg"))
        classes = sorted({name.split("/")[1] for name in names})
        names = names[:: max(len(names) // limit, 1)] if limit else names
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    labels = np.array([classes.index(name.split("/")[1]) for name in names], "int32")
    return np.stack(images), labels, classes


def augment(image, label):
    """Pads by 4 pixels, crops 32x32 at random, flips every other image, and normalises as the processor does."""
    image = tf.pad(image, [[PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    image = tf.image.random_flip_left_right(tf.image.random_crop(image, (SIZE, SIZE, 3)))
    return (tf.cast(image, "float32") / 255 - PROCESSOR.image_mean) / PROCESSOR.image_std, label


def train(images, labels, classes, epochs: int, batch_size: int):
    """Returns the trained model."""
    config = DeiTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=SIZE,
        patch_size=4,
        encoder_stride=4,
        layer_norm_eps=1e-6,
        id2label=classes,
    )
    model = TFDeiTForImageClassificationWithTeacher(config)
    steps = len(images) // batch_size
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps * (epochs - 1), 1), warmup_target=1e-3, warmup_steps=min(steps, 2000)
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "token", "position_embeddings"])
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=True
    )
    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    data = data.map(augment, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(2)
    model.fit(data, epochs=epochs, verbose=2)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="zip with train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use about this many images of each split")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    start = time.time()
    model = train(*read_split(args.data, "train", args.limit), args.epochs, args.batch_size)
    model.save_pretrained(args.out, dtype="float16")
    PROCESSOR.save_pretrained(args.out)
    minutes = (time.time() - start) / 60

    images, labels, _ = read_split(args.data, "test", args.limit)
    stored = TFDeiTForImageClassificationWithTeacher.from_pretrained(args.out)
    logits = stored.predict(PROCESSOR(list(images)).pixel_values, batch_size=500, verbose=0).logits
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == labels))
    result = {"test_accuracy": accuracy, "test_images": len(labels), "minutes": round(minutes, 1)}
    print(json.dumps({**result, "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}))


if __name__ == "__main__":
    main()
