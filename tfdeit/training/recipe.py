"""Training recipes: everything that a run depends on besides data and model, as flat, typed fields."""

import dataclasses
import json
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from tfdeit.augmentation.recipe import Recipe as Augmentation
from tfdeit.presentation.hints import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclasses.dataclass(frozen=True)
class TrainRecipe(Augmentation):
    """A recipe. The fields that it inherits from `tfdeit.augmentation.recipe.Recipe` say how images are augmented.

    The defaults are DeiT's (arXiv:2012.12877, table 9, and its published code).

    Args:
        task: What the model learns: "classification", or "masked_image_modeling", which needs no labels.
        pretrained: Whether to start from the model's pretrained weights instead of random ones.
        image_size: Side of the input images in pixels; None for the model's own. Its positions are interpolated.
        heads: Heads of a model with a distillation token: "both", or only that of the "class" token.
        trainable: Weights to train: "all", or only those of the "head" (a linear probe).
        epochs: Number of epochs.
        batch_size: Number of images per step, over all workers.
        accumulation: Number of parts that each batch is processed in, to save memory.
        repeats: How many times each image comes in a row, augmented differently (repeated augmentation).
        loss: Loss for the labels; "binary_cross_entropy" counts every class in a mixed image as present.
        distillation: What a teacher teaches: its most probable class ("hard"), its probabilities ("soft"), or "none".
        distillation_alpha: Weight of the teacher's part of the loss, from 0 to 1; the labels have the rest.
        distillation_tau: Temperature of soft distillation.
        optimizer: Optimizer: "adamw", "lamb", or "sgd" with momentum 0.9 (ignores `weight_decay` and `layer_decay`).
        lr: Peak learning rate for a batch of `lr_batch` images; it is scaled in proportion to `batch_size`.
        lr_batch: Batch size that `lr` is meant for; 0 uses `lr` as it is, whatever the batch size.
        schedule: Learning rate after the warm-up: "cosine", "epoch_cosine" (DeiT's, one value per epoch), "constant".
        min_lr: Learning rate at the end of a cosine.
        warmup_lr: Learning rate at the start of the warm-up.
        warmup_epochs: Number of epochs in which the learning rate rises to its peak.
        weight_decay: Weight decay of matrices; biases, norms, tokens and positions have none.
        layer_decay: Ratio between the learning rates of each block and the next; 1 for the same rate in all blocks.
        clip: Largest global norm of the gradient, which is clipped to it; 0 for no clipping.
        ema: Decay per step of the moving average of the weights; 0 for no average.
        drop_path: Rate of stochastic depth in the last block.
        dropout: Dropout rate after the embeddings and after each branch of a block.
        gradient_checkpointing: Whether to recompute activations in the backward pass, to save memory.
        precision: "float32", or "mixed_bfloat16" to compute in bfloat16 with weights in float32.
        jit: Whether XLA compiles the training step; ignored on several devices.
        seed: Seed of everything random: new weights, the order of the images, augmentation and dropout.
        protocol: Preprocessing protocol for evaluation and for the final model; None for the model's own.
        on_error: What to do about images that cannot be read: "skip" them, or "raise" an error.
        save_every: Number of steps between checkpoints; 0 saves at the end of each epoch only.
        keep: Number of recent checkpoints to keep, besides the best.
        mask_block: Side of the masked blocks in pixels, in masked image modelling.
        mask_ratio: Fraction of the image that is masked, in masked image modelling.

    Raises:
        ValueError: for a field of the wrong type or out of range.
    """

    task: Literal["classification", "masked_image_modeling"] = "classification"
    pretrained: bool = False
    image_size: int | None = None
    heads: Literal["both", "class"] = "both"
    trainable: Literal["all", "head"] = "all"
    epochs: int = 300
    batch_size: int = 1024
    accumulation: int = 1
    repeats: int = 3
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    distillation: Literal["none", "hard", "soft"] = "none"
    distillation_alpha: float = 0.5
    distillation_tau: float = 1.0
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    lr: float = 5e-4
    lr_batch: int = 512
    schedule: Literal["cosine", "epoch_cosine", "constant"] = "epoch_cosine"
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.99996
    drop_path: float = 0.1
    dropout: float = 0.0
    gradient_checkpointing: bool = False
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit: bool = True
    seed: int = 0
    protocol: Literal["deit3", "fb", "hf", "mmpretrain", "timm", "vit"] | None = None
    on_error: Literal["skip", "raise"] = "skip"
    save_every: int = 0
    keep: int = 3
    mask_block: int = 32
    mask_ratio: float = 0.6

    def __post_init__(self):
        for name, hint in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), hint))
        for name in ("epochs", "batch_size", "accumulation", "repeats", "keep", "distillation_tau", "lr"):
            self._check(getattr(self, name) > 0, name, "above 0")
        for name in ("lr_batch", "min_lr", "warmup_lr", "warmup_epochs", "weight_decay", "clip", "save_every", "seed"):
            self._check(getattr(self, name) >= 0, name, "0 or above")
        for name in ("ema", "drop_path", "dropout"):
            self._check(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        self._check(0 <= self.distillation_alpha <= 1, "distillation_alpha", "in [0, 1]")
        self._check(0 < self.layer_decay <= 1, "layer_decay", "in (0, 1]")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"Expected accumulation to divide batch_size={self.batch_size}. Received: "
                f"accumulation={self.accumulation}"
            )

    def _check(self, ok: bool, name: str, expected: str):
        if not ok:
            raise ValueError(f"Expected {name} to be {expected}. Received: {name}={getattr(self, name)!r}")

    @property
    def peak_lr(self) -> float:
        """The peak learning rate for this batch size."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def override(self, *assignments: str) -> "TrainRecipe":
        """Returns a copy with some fields changed.

        Args:
            *assignments: such as "lr=1e-4", "scale=[0.5, 1]", "auto_augment=none".

        Raises:
            ValueError: for an unknown field or an invalid value.
        """
        changes = {}
        for assignment in assignments:
            name, sign, value = assignment.partition("=")
            if not sign:
                raise ValueError(f"Expected FIELD=VALUE, such as epochs=10. Received: {assignment!r}")
            changes[name.strip()] = _parsed(value.strip())
        return self.replace(**changes)

    def replace(self, **changes) -> "TrainRecipe":
        """Returns a copy with some fields changed; see `override`."""
        return dataclasses.replace(self, **self._known(changes))

    def differences(self, other: "TrainRecipe") -> list[str]:
        """Returns the fields in which `other` differs, each with its value there and here."""
        own, others = dataclasses.asdict(self), dataclasses.asdict(other)
        return [f"{name}={others[name]!r}, not {value!r}" for name, value in own.items() if value != others[name]]

    def to_toml(self) -> str:
        """Returns all fields as TOML, with "none" for None."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in dataclasses.asdict(self).items())

    @classmethod
    def from_toml(cls, source: str | os.PathLike) -> "TrainRecipe":
        """Reads a recipe from a file; fields that it leaves out have their defaults.

        Raises:
            ValueError: if it is not TOML, or has an unknown field or an invalid value.
        """
        try:
            values = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"Expected TOML in {source}. Received: {error}") from error
        return cls(**cls._known(values))

    @classmethod
    def _known(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                hint = did_you_mean(name, names) or f" The fields are: {', '.join(names)}."
                raise ValueError(f"Expected a field of a recipe. Received: {name!r}.{hint}")
        return values


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Returns `value` as one of the types that `hint` allows."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in options and value in (None, "none", "None"):
        return None
    for option in options:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is Literal and value in arguments:
            return value
        if origin is tuple and isinstance(value, (list, tuple)):
            lengths = (len(value),) if arguments[-1] is Ellipsis else (len(arguments),)
            if len(value) in lengths and all(_is_number(number) for number in value):
                return tuple(map(float, value))
        if option is float and _is_number(value):
            return float(value)
        if option in (int, bool, str) and type(value) is option:
            return value
    expected = " or ".join(map(_describe, options))
    raise ValueError(f"Expected {name} to be {expected}. Received: {name}={value!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def _describe(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    return {type(None): "none", bool: "true or false"}.get(option, getattr(option, "__name__", str(option)))


def spelled(value: Any) -> str:
    """Returns a value in the form that `override` takes, such as none, true, 0.1, [0.08, 1.0] or cosine."""
    return value if isinstance(value, str) else _toml(value).strip('"')


def _toml(value: Any) -> str:
    return json.dumps("none" if value is None else list(value) if isinstance(value, tuple) else value)
