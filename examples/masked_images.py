"""Pretrains a small ViT on images without labels: it learns to fill in masked patches (SimMIM), in plain Keras `fit`.

    python examples/masked_images.py cifar10-images.zip --out runs/simmim [--steps 500]

The folder (or zip) holds CLASS/*.jpg, or train/CLASS/*.jpg; the classes are not used. The result is a directory whose
backbone `TFViTForImageClassification.from_pretrained` reads, with a picture of reconstructions in it.
"""

import argparse
from pathlib import Path

import keras

from tfdeit import TFViTForMaskedImageModeling, ViTConfig
from tfdeit.augmentation.recipe import RECIPES
from tfdeit.data.loading import Loading
from tfdeit.data.pipeline import train_pipeline
from tfdeit.data.sources import open_source
from tfdeit.training.masked_images import as_inputs, masked_pipeline, reconstruction_grid


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or zip of images")
    parser.add_argument("--split", help="folder inside it, such as train")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    config = ViTConfig(**sizes, image_size=32, patch_size=4, encoder_stride=4, layer_norm_eps=1e-6)
    model = TFViTForMaskedImageModeling(config)
    source = open_source(args.data, args.split)
    images = train_pipeline(source, args.batch_size, 32, RECIPES["simmim"], mix=False, loading=Loading(on_error="skip"))
    pipeline = masked_pipeline(images, config, block_size=8)

    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), jit_compile=True)  # the model has its own loss
    data = pipeline.dataset().map(as_inputs)
    history = model.fit(data, steps_per_epoch=max(args.steps // 10, 1), epochs=10, verbose=2)
    print("loss:", *(f"{loss:.4f}" for loss in history.history["loss"]))

    model.save_pretrained(args.out)
    images, masks = next(iter(pipeline.dataset(args.steps, 1)))
    reconstruction_grid(model, images[:12], masks[:12]).save(args.out / "reconstructions.png")


if __name__ == "__main__":
    main()
