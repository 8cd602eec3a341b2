"""Trains a linear classifier on frozen features, which are computed once: seconds, where fine-tuning takes minutes.

    python examples/linear_probe.py photos --out runs/probe [--model facebook/deit-small-distilled-patch16-224]

The folder (or zip) holds CLASS/*.jpg, or train/CLASS and val/CLASS. The result is a classifier of these classes.
"""

import argparse

import keras
import numpy as np

from tfdeit import AutoImageProcessor, TFDeiTForImageClassification
from tfdeit.data.pipeline import eval_pipeline
from tfdeit.data.splits import open_splits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--model", default="deit_micro_cifar10", help="a distilled DeiT")
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    train, held_out, how = open_splits(args.data)
    print(how)
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = TFDeiTForImageClassification.from_pretrained(args.model, id2label=train.class_names)

    def features(source):
        batches = [
            (model.extract_feat(pixel_values)[0][0], labels)
            for pixel_values, labels in eval_pipeline(source, 64, processor).dataset()
        ]
        return [np.concatenate(column) for column in zip(*batches, strict=True)]

    probe = keras.Sequential([keras.Input((model.config.hidden_size,)), keras.layers.Dense(len(train.class_names))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    probe.compile(keras.optimizers.AdamW(1e-2, weight_decay=1e-4), loss, metrics=["accuracy"])
    probe.fit(*features(train), batch_size=256, epochs=args.epochs, verbose=0)
    accuracy = probe.evaluate(*features(held_out), verbose=0, return_dict=True)["accuracy"]
    print(f"accuracy on images held out: {accuracy:.1%}")

    for ours, trained in zip(model.classifier.weights, probe.weights, strict=True):
        ours.assign(trained)
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
