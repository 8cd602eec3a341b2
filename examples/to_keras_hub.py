"""Gives a distilled DeiT to keras-hub, and compares the features of both.

    pip install keras-hub
    python examples/to_keras_hub.py examples/photos/*.png --out for-keras-hub [--model NAME]

keras-hub reads the directory that `save_pretrained` writes, in the format of the Hugging Face hub. It has one head of
the two, so its classifier answers what our class head does, not the mean of both.
"""

import argparse

import keras_hub
import numpy as np

from tfdeit import AutoImageProcessor, TFDeiTForImageClassificationWithTeacher


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--model", default="deit_micro_cifar10", help="a distilled DeiT")
    args = parser.parse_args()

    processor = AutoImageProcessor.from_pretrained(args.model)
    ours = TFDeiTForImageClassificationWithTeacher.from_pretrained(args.model, dtype="float32")
    ours.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    theirs = keras_hub.models.DeiTBackbone.from_preset(args.out)

    pixel_values = processor(args.photos).pixel_values
    tokens, same = ours.backbone(pixel_values).last_hidden_state, theirs(pixel_values)
    difference = np.abs(np.asarray(tokens) - np.asarray(same)).max()
    print(f"{args.out}: the tokens {tuple(tokens.shape)} differ by {difference:.1e} at most")


if __name__ == "__main__":
    main()
