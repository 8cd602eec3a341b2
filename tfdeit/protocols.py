"""The published preprocessing protocols: how each evaluation of DeiT and ViT resizes, crops and normalises."""

from typing import Any

from tfdeit.presentation.hints import did_you_mean

PROTOCOLS = ("deit3", "fb", "hf", "mmpretrain", "timm", "vit")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def geometry(protocol: str, size: int) -> dict[str, Any]:
    """Returns how a protocol resizes and crops, as parameters of an image processor.

    From DeiT's datasets.py, timm's create_transform, and the configuration files of the others. Published for 224 and
    384 pixels; other sizes keep the ratio.

    Args:
        protocol: "fb", "timm", "hf", "mmpretrain", "vit" or "deit3".
        size: side of the square that the model takes, in pixels.

    Raises:
        ValueError: if the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, PROTOCOLS)
        raise ValueError(f"Expected protocol to be one of {', '.join(PROTOCOLS)}. Received: {protocol!r}.{hint}")
    enlarged = size * 256 // 224
    bicubic = {"do_resize": True, "resample": 3, "do_center_crop": True, "crop_size": _square(size)}
    torchvision = {**bicubic, "crop_rounding": "round"}
    squash = {"do_resize": True, "size": _square(size), "do_center_crop": False}
    fb = {**torchvision, "size": {"shortest_edge": enlarged}}
    return {
        "fb": fb,
        "timm": {**torchvision, "size": {"shortest_edge": size if size >= 384 else int(size / 0.9)}},
        "hf": {**bicubic, "size": _square(enlarged), "crop_rounding": "floor"},
        "mmpretrain": {**squash, "resample": 3} if size >= 384 else fb,
        "vit": {**squash, "resample": 2},
        "deit3": {**torchvision, "size": {"shortest_edge": size}},
    }[protocol]


def preprocessor_config(protocol: str, size: int) -> dict[str, Any]:
    """Returns the preprocessor_config.json of weights published with `protocol`.

    All but "vit" (mean and std 0.5) normalise with ImageNet's mean and std.

    Args:
        protocol: see `geometry`.
        size: side of the square that the model takes, in pixels.
    """
    half = (0.5, 0.5, 0.5)
    family, mean, std = ("ViT", half, half) if protocol == "vit" else ("DeiT", IMAGENET_MEAN, IMAGENET_STD)
    return {
        "image_processor_type": f"{family}ImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        **geometry(protocol, size),
    }


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
