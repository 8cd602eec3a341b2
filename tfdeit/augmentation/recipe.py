"""Published augmentation recipes: plain values, so that the command line can list them without TensorFlow."""

import dataclasses
from typing import TYPE_CHECKING

from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from tfdeit.augmentation.mix import Mixup


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How training images are augmented. The fields have timm's names; the defaults are DeiT's.

    Args:
        scale: Smallest and largest area of a random crop, as fractions of the image's area.
        ratio: Smallest and largest aspect ratio (width / height) of a random crop.
        interpolation: Filter that crops and RandAugment use: "bicubic", "bilinear", or "random" for one of the two.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's string for RandAugment, such as "rand-m9-mstd0.5-inc1"; None for no RandAugment.
        three_augment: Whether to use DeiT III's 3-Augment: greyscale, solarisation or blur.
        color_jitter: Strength of colour jitter: one number for brightness, contrast and saturation, or a list of these
            three, or of four with hue; None for no jitter. Unlike in timm, `auto_augment` does not switch it off.
        reprob: Probability of random erasing.
        remode: What fills an erased box: "pixel" (noise), "rand" (one random colour) or "const" (zeros).
        recount: Largest number of boxes that random erasing erases in an image.
        mean: Mean of each channel to normalise with, for pixels in [0, 1]; also the colour that RandAugment fills with.
        std: Standard deviation of each channel to normalise with, for pixels in [0, 1].
        mixup: Alpha of mixup, whose weights are drawn from Beta(alpha, alpha); 0 for no mixup.
        cutmix: Alpha of CutMix, whose areas are drawn from Beta(alpha, alpha); 0 for no CutMix.
        mixup_prob: Probability that images are mixed at all, by mixup or CutMix.
        mixup_switch_prob: Probability of CutMix rather than mixup, where both are on.
        mixup_mode: What is mixed in the same way: the "batch", each "pair" of images, or each image alone ("elem").
        smoothing: Label smoothing: the fraction of each label that is spread over all classes.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    hflip: float = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    three_augment: bool = False
    color_jitter: float | tuple[float, ...] | None = None
    reprob: float = 0.25
    remode: str = "pixel"
    recount: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    smoothing: float = 0.1

    def mixing(self, num_classes: int) -> "Mixup":
        """Return the mixup and CutMix of this recipe; with both alphas 0, they only smooth the labels."""
        from tfdeit.augmentation.mix import Mixup

        return Mixup(
            num_classes,
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            probability=self.mixup_prob,
            switch_probability=self.mixup_switch_prob,
            mode=self.mixup_mode,
            smoothing=self.smoothing,
        )


RECIPES = {
    "deit": Recipe(),
    "deit3": Recipe(auto_augment=None, three_augment=True, color_jitter=0.3, reprob=0.0, smoothing=0.0),
    # Masked image modelling, arXiv 2111.09886: `SimMIMTransform` in its data/data_simmim.py. It has no labels to mix.
    "simmim": Recipe(
        scale=(0.67, 1.0), interpolation="bilinear", auto_augment=None, reprob=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0
    ),
}
