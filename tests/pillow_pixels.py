"""Pixels of transformers' Pillow processors, and of Pillow code written as torchvision, timm and mmpretrain do."""

import math

import numpy as np
from PIL import Image

from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}


def reference(transformers, kind, images, options, **call):
    """pixel_values of transformers' Pillow processor, channels last."""
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    values = processor(images, **call)["pixel_values"]
    return np.stack([np.asarray(value).transpose(1, 2, 0) for value in values])


def protocol_reference(image, protocol, size):
    """The protocols from the definitions of torchvision's Resize and CenterCrop, timm and mmpretrain."""
    width, height = image.size
    if protocol == "mmpretrain" and size == 384:
        image = image.resize((384, 384), Image.Resampling.BICUBIC)
    else:
        shorts = {("fb", 224): 256, ("fb", 384): 438, ("mmpretrain", 224): 256, ("deit3", 224): 224}
        short = shorts.get((protocol, size))
        short = short or math.floor(size / (0.9 if size == 224 else 1.0))
        if width < height:
            image = image.resize((short, int(short * height / width)), Image.Resampling.BICUBIC)
        else:
            image = image.resize((int(short * width / height), short), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2.0) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    pixels = (np.asarray(image).astype("float64") * (1 / 255)).astype("float32")
    return (pixels - np.array(IMAGENET_MEAN, "float32")) / np.array(IMAGENET_STD, "float32")
