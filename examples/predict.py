"""Classifies photos with `model.predict`.

python examples/predict.py examples/photos/*.png [--model facebook/deit-small-distilled-patch16-224]
"""

import argparse

import keras

from tfdeit import AutoImageProcessor, TFAutoModelForImageClassification


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--model", default="deit_micro_cifar10", help="a directory, or a name of `tfdeit list`")
    args = parser.parse_args()

    processor = AutoImageProcessor.from_pretrained(args.model)
    model = TFAutoModelForImageClassification.from_pretrained(args.model)
    outputs = model.predict(processor(args.photos).pixel_values, batch_size=32, verbose=0)
    for photo, probabilities in zip(args.photos, keras.ops.softmax(outputs.logits), strict=True):
        values, indices = keras.ops.top_k(probabilities, 3)
        labels = (f"{model.config.id2label[int(i)]} {float(p):.1%}" for i, p in zip(indices, values, strict=True))
        print(f"{photo}: {', '.join(labels)}")


if __name__ == "__main__":
    main()
