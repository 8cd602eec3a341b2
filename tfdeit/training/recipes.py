"""The recipes by name: those of the papers, and some for small data sets."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from tfdeit.augmentation.recipe import RECIPES as AUGMENTATIONS
from tfdeit.presentation.hints import did_you_mean
from tfdeit.training.recipe import TrainRecipe

_PLAIN: dict[str, Any] = {  # random crops and flips only
    "auto_augment": None,
    "reprob": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "smoothing": 0.0,
    "repeats": 1,
}

RECIPES = {
    "deit_pretrain": TrainRecipe(),
    "deit_distill_hard": TrainRecipe(distillation="hard"),
    # Temperature and weight from section 5.3 of the paper.
    "deit_distill_soft": TrainRecipe(distillation="soft", distillation_alpha=0.1, distillation_tau=3.0),
    "deit_finetune_384": TrainRecipe(
        pretrained=True,
        image_size=384,
        epochs=30,
        batch_size=512,
        lr=5e-6,
        schedule="constant",
        warmup_epochs=0.0,
        weight_decay=1e-8,
    ),
    # arXiv:2010.11929, table 4: 20,000 steps of 512 images of ImageNet are 8 epochs; 500 steps of warm-up are 0.2.
    "vit_finetune": TrainRecipe(
        **_PLAIN,
        scale=(0.05, 1.0),
        interpolation="bilinear",
        pretrained=True,
        image_size=384,
        epochs=8,
        batch_size=512,
        optimizer="sgd",
        lr=0.03,
        lr_batch=0,
        schedule="cosine",
        min_lr=0.0,
        warmup_lr=0.0,
        warmup_epochs=0.2,
        weight_decay=0.0,
        clip=1.0,
        ema=0.0,
        drop_path=0.0,
    ),
    # The small model in README_revenge.md of facebookresearch/deit; LAMB as in NVIDIA's apex, which clips at 1.
    "deit3_pretrain": TrainRecipe(
        **dataclasses.asdict(AUGMENTATIONS["deit3"]),
        epochs=800,
        batch_size=2048,
        loss="binary_cross_entropy",
        optimizer="lamb",
        lr=4e-3,
        lr_batch=0,
        clip=1.0,
        drop_path=0.05,
    ),
    # configs/vit_base__800ep of microsoft/SimMIM, with a cosine instead of its step at epoch 700.
    "simmim": TrainRecipe(
        **dataclasses.asdict(AUGMENTATIONS["simmim"]),
        task="masked_image_modeling",
        repeats=1,
        epochs=800,
        batch_size=2048,
        lr=1e-4,
        schedule="cosine",
        warmup_lr=5e-7,
        warmup_epochs=10.0,
        clip=5.0,
        ema=0.0,
    ),
    "linear_probe": TrainRecipe(
        **_PLAIN,
        pretrained=True,
        trainable="head",
        epochs=20,
        batch_size=64,
        lr=1e-3,
        lr_batch=0,
        schedule="cosine",
        min_lr=0.0,
        warmup_epochs=0.0,
        weight_decay=0.0,
        ema=0.0,
        drop_path=0.0,
    ),
    # For a folder of the user's own photos, from a few dozen up.
    "finetune": TrainRecipe(
        **{**_PLAIN, "auto_augment": "rand-m6-mstd0.5-inc1", "smoothing": 0.1},
        scale=(0.35, 1.0),
        pretrained=True,
        epochs=30,
        batch_size=16,
        lr=3e-4,
        lr_batch=0,
        schedule="cosine",
        min_lr=0.0,
        warmup_epochs=3.0,
        layer_decay=0.75,
        clip=1.0,
        ema=0.0,
    ),
    "cifar10_micro": TrainRecipe(
        **{**_PLAIN, "smoothing": 0.1},
        scale=(0.5, 1.0),
        epochs=20,
        batch_size=128,
        lr=1e-3,
        lr_batch=0,
        schedule="cosine",
        clip=1.0,
        ema=0.999,
        drop_path=0.0,
    ),
}


def find_recipe(name: str | os.PathLike[str]) -> TrainRecipe:
    """Returns a recipe by its name in `RECIPES`, or from a TOML file.

    Raises:
        ValueError: if there is no such name or file, or the file is invalid.
    """
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).is_file():
        return TrainRecipe.from_toml(name)
    hint = did_you_mean(str(name), RECIPES)
    raise ValueError(f"Expected one of {', '.join(RECIPES)}, or a TOML file. Received: {str(name)!r}.{hint}")
