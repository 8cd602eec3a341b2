"""Evaluates with all the work on pixels on the GPU, where there is one: the host only decodes.

    python examples/evaluate_on_device.py photos [--model NAME]

The folder (or zip) holds CLASS/*.jpg with the model's classes, in the order of their names. Resizing and normalising
are one function of a batch, which gives Pillow's pixels on any device; so the accuracy is that of the host.
"""

import argparse
import time

import numpy as np
import tensorflow as tf

from tfdeit import AutoImageProcessor, TFAutoModelForImageClassification
from tfdeit.data.loading import Loading
from tfdeit.data.pipeline import eval_pipeline
from tfdeit.data.sources import open_source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="deit_micro_cifar10")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    model = TFAutoModelForImageClassification.from_pretrained(args.model)
    processor, source = AutoImageProcessor.from_pretrained(args.model), open_source(args.data)
    pipeline = eval_pipeline(source, args.batch_size, processor, loading=Loading(resize_on="device"))
    device = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name

    @tf.function(autograph=False)
    def answer(batch):
        pixel_values, labels = pipeline.finish(batch)  # uint8 images of any size to (B, S, S, 3) float32
        return tf.argmax(model(pixel_values).logits, axis=-1, output_type=labels.dtype) == labels

    start = time.perf_counter()
    with tf.device(device):
        right = np.concatenate([answer(batch) for batch in pipeline.host()])
    seconds = time.perf_counter() - start
    print(f"{device}: accuracy {right.mean():.2%} of {len(right)} images, {len(right) / seconds:.0f} images/s")


if __name__ == "__main__":
    main()
