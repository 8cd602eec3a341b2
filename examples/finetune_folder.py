"""Fine-tunes a checkpoint on a folder of photos, as `tfdeit train --recipe finetune` does.

    python examples/finetune_folder.py photos --out runs/photos [--model facebook/deit-small-distilled-patch16-224]

The folder (or zip) holds CLASS/*.jpg, or train/CLASS and val/CLASS. OUT/model is what `tfdeit predict --model` takes;
the same command again goes on where it was interrupted. With --image-size 384, the position table of a model for 224
pixels is interpolated, and the recipe is the one that DeiT's paper has for that.
"""

import argparse
import sys

from tfdeit.training.recipes import RECIPES
from tfdeit.training.run import Run, train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", required=True, help="directory of the run")
    parser.add_argument("--model", default="deit_micro_cifar10")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--image-size", type=int, help="in pixels, other than the model's")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    recipe = RECIPES["deit_finetune_384"] if args.image_size else RECIPES["finetune"]
    recipe = recipe.replace(epochs=args.epochs, batch_size=args.batch_size, image_size=args.image_size)
    finished = train(recipe, Run(args.data, args.model), args.out, resume=True)
    sys.exit(0 if finished else f"stopped; the same command goes on with {args.out}")


if __name__ == "__main__":
    main()
