"""Fine-tunes a checkpoint on a folder of images, with DeiT's augmentations, and evaluates it after each epoch.

    python examples/train_folder.py photos --out runs/photos [--model deit_micro_cifar10] [--epochs 1]

The folder (or zip) holds train/CLASS/*.jpg and val/CLASS/*.jpg. The result is a directory that `from_pretrained` and
`tfdeit predict --model` read.
"""

import argparse
import dataclasses

import keras

from tfdeit import AutoImageProcessor, TFAutoModelForImageClassification
from tfdeit.data.loading import Loading
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.recipe import RECIPES
from tfdeit.data.sources import open_source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or zip with train/CLASS/*.jpg and val/CLASS/*.jpg")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--model", default="deit_micro_cifar10", help="checkpoint to start from (%(default)s)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()

    train, val = open_source(args.data, "train"), open_source(args.data, "val")
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = TFAutoModelForImageClassification.from_pretrained(args.model, id2label=train.class_names)

    recipe = dataclasses.replace(RECIPES["deit"], mean=tuple(processor.image_mean), std=tuple(processor.image_std))
    loading = Loading(on_error="skip")
    training = train_pipeline(
        train, args.batch_size, model.config.image_hw[0], recipe, mix=False, order=Order(seed=0), loading=loading
    )
    evaluation = eval_pipeline(val, args.batch_size, processor, loading=loading)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-4), loss, metrics=["accuracy"])
    model.fit(
        training.dataset(),
        steps_per_epoch=training.steps_per_epoch,
        epochs=args.epochs,
        validation_data=evaluation.dataset(),
        verbose=2,
    )
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    for failure in training.failures + evaluation.failures:
        print(f"skipped {failure.name}: {failure.reason}")


if __name__ == "__main__":
    main()
