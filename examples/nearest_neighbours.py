"""Finds the images of a folder that look most like a photo, by the features of its class token.

    python examples/nearest_neighbours.py examples/photos/cat.png photos [--count 5] [--model NAME]

The folder (or zip) holds CLASS/*.jpg; images that cannot be read are left out.
"""

import argparse

import numpy as np

from tfdeit import AutoImageProcessor, get_model
from tfdeit.data.loading import Loading
from tfdeit.data.pipeline import eval_pipeline
from tfdeit.data.sources import open_source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("folder")
    parser.add_argument("--model", default="deit_micro_cifar10")
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()

    model, processor = get_model(args.model), AutoImageProcessor.from_pretrained(args.model)

    def features(pixel_values):
        """(B, H, W, 3) to unit vectors (B, D)."""
        (tokens,) = model.extract_feat(pixel_values)
        vectors = np.asarray(tokens[0] if isinstance(tokens, tuple) else tokens, "float32")
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    source = open_source(args.folder)
    pipeline = eval_pipeline(source, 64, processor, loading=Loading(on_error="skip"))
    vectors = np.concatenate([features(pixel_values) for pixel_values, _ in pipeline.dataset()])
    unread = {failure.index for failure in pipeline.failures}
    names = [source.name(index) for index in range(len(source)) if index not in unread]
    similarity = vectors @ features(processor(args.photo).pixel_values)[0]
    for index in np.argsort(-similarity)[: args.count]:
        print(f"{similarity[index]:.3f}  {names[index]}")


if __name__ == "__main__":
    main()
