"""Trains a convnet on CIFAR-10 with Keras, and distils it into a micro DeiT with `tfdeit train`.

    python examples/distil_cifar10.py --data cifar10-images.zip --out runs/distilled [--teacher-epochs 10] [--epochs 20]

The zip holds train/CLASS/*.jpg and test/CLASS/*.jpg, 32x32 pixels. OUT/student/model is the student; without a
teacher, `tfdeit train --recipe cifar10_micro` trains the same network. Prints the accuracies as one JSON line. The
same command again goes on where it was stopped; the teacher is trained in one piece.
"""

import argparse
import json
from pathlib import Path

import keras

from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.splits import open_splits
from tfdeit.preprocessing.processors import AutoImageProcessor
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD
from tfdeit.training.recipes import RECIPES
from tfdeit.training.run import Run, train

MODEL = "deit_micro_cifar10"  # for its architecture


def convnet(classes: int) -> keras.Model:
    """A small residual network on pixels from 0 to 255."""
    scale = 1 / (255 * sum(IMAGENET_STD) / 3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(scale, -sum(IMAGENET_MEAN) / 3 * 255 * scale)(inputs)
    for filters in (32, 64, 128):
        x = keras.layers.MaxPooling2D()(unit(x, filters))
        x = keras.layers.Add()([x, unit(unit(x, filters), filters)])
    x = keras.layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def unit(x, filters: int):
    """A convolution with batch normalisation."""
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))


def train_teacher(source: str, epochs: int, batch_size: int) -> tuple[keras.Model, float]:
    """Returns a trained convnet that takes pixels from 0 to 255, and its accuracy on the images held out."""
    keras.utils.set_random_seed(0)
    images, held_out, _ = open_splits(source)
    plain = RECIPES["cifar10_micro"].replace(scale=(0.8, 1.0), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    data = train_pipeline(images, batch_size, 32, plain, order=Order(seed=1))
    processor = AutoImageProcessor.from_pretrained(MODEL, image_mean=[0] * 3, image_std=[1 / 255] * 3)
    test = eval_pipeline(held_out, 256, processor)
    model, steps = convnet(len(images.class_names)), epochs * data.steps_per_epoch
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate), loss, jit_compile=False)
    model.fit(data.dataset(), steps_per_epoch=data.steps_per_epoch, epochs=epochs, shuffle=False, verbose=2)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model, model.evaluate(test.dataset(), verbose=0, return_dict=True)["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="zip or folder of train/CLASS/ and test/CLASS/")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()

    path = args.out / "teacher.keras"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        teacher, accuracy = train_teacher(args.data, args.teacher_epochs, args.batch_size)
        teacher.save(path)
        (args.out / "teacher.json").write_text(json.dumps({"teacher_accuracy": round(accuracy, 4)}), encoding="utf-8")

    recipe = RECIPES["cifar10_micro"].replace(distillation="hard", epochs=args.epochs, batch_size=args.batch_size)
    run = Run(data=args.data, model=MODEL, teacher=str(path))
    train(recipe, run, args.out / "student", resume=True)
    history = (args.out / "student" / "history.csv").read_text(encoding="utf-8").splitlines()
    last = dict(zip(history[0].split(","), history[-1].split(","), strict=True))
    student = {name: round(float(last[name]), 4) for name in ("val_accuracy", "ema_val_accuracy")}
    print(json.dumps({**json.loads((args.out / "teacher.json").read_text(encoding="utf-8")), **student}))


if __name__ == "__main__":
    main()
