"""Training recipes: everything that a run depends on besides data and model, as typed and flat fields."""

import dataclasses
import json
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from tfdeit.data.recipe import Recipe as Augmentation
from tfdeit.hints import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclasses.dataclass(frozen=True)
class TrainRecipe(Augmentation):
    """A recipe. The fields of `tfdeit.data.recipe.Recipe`, which it inherits, say how images are changed.

    The defaults are DeiT's (arXiv:2012.12877, table 9, and its published code).

    Args:
        task: what is learnt.
        pretrained: whether to start from the weights of the model, or from random ones.
        image_size: in pixels; None for the model's. The position table is interpolated.
        heads: "both" heads of a model with a distillation token; or only that of the "class" token.
        trainable: "all" weights, or only those of the "head" (a linear probe).
        epochs: how many.
        batch_size: images a step, over all workers.
        accumulation: parts that each batch is cut into, to need less memory.
        repeats: of repeated augmentation.
        loss: of the labels. "binary_cross_entropy" takes each class that is in a mixed image as present.
        distillation: "hard" learns the teacher's answers, "soft" its probabilities.
        distillation_alpha: weight of the teacher's part of the loss; the labels have the rest.
        distillation_tau: temperature of soft distillation.
        optimizer: "adamw", "lamb" or "sgd" (with momentum 0.9).
        lr: highest learning rate, for a batch of `lr_batch` images: it is in proportion to the batch size.
        lr_batch: see `lr`; 0 means that `lr` is for any batch size.
        schedule: "cosine", a value a step; "epoch_cosine", a value an epoch, as DeiT's; or "constant".
        min_lr: at the end of a cosine.
        warmup_lr: at the start.
        warmup_epochs: until `lr` is reached.
        weight_decay: of matrices; biases, norms, tokens and positions have none.
        layer_decay: ratio of the learning rates of each block and the next; 1 for the same everywhere.
        clip: largest global norm of the gradient; 0 for any.
        ema: decay of the moving average of the weights, a step; 0 for no average.
        drop_path: rate of stochastic depth of the last block.
        dropout: after embeddings and branches.
        gradient_checkpointing: whether to recompute activations, to need less memory.
        precision: "mixed_bfloat16" computes in bfloat16 and keeps the weights in float32.
        jit: whether XLA compiles the step; only where there is one device.
        seed: of everything random.
        protocol: preprocessing in evaluation, and of the final model; None means the model's own.
        on_error: "skip" or "raise", for images that cannot be read.
        save_every: steps between checkpoints; 0 means at the end of each epoch only.
        keep: how many checkpoints to keep, besides the best.
        mask_block: side of a masked block of pixels, in masked image modelling.
        mask_ratio: fraction of the blocks that are masked.

    Raises:
        ValueError: for a field of the wrong type, or out of its range.
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
        """The highest learning rate, for this batch size."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def override(self, *assignments: str) -> "TrainRecipe":
        """Returns a copy with other values.

        Args:
            *assignments: such as "lr=1e-4", "scale=[0.5, 1]", "auto_augment=none".

        Raises:
            ValueError: for a field that there is not, or a value that cannot be.
        """
        changes = {}
        for assignment in assignments:
            name, sign, value = assignment.partition("=")
            if not sign:
                raise ValueError(f"Expected FIELD=VALUE. Received: {assignment!r}")
            changes[name.strip()] = _parsed(value.strip())
        return self.replace(**changes)

    def replace(self, **changes) -> "TrainRecipe":
        """Returns a copy with other values; see `override`."""
        return dataclasses.replace(self, **self._known(changes))

    def differences(self, other: "TrainRecipe") -> list[str]:
        """Returns the fields in which `other` differs, with its value and this one's."""
        own, others = dataclasses.asdict(self), dataclasses.asdict(other)
        return [f"{name}={others[name]!r}, not {value!r}" for name, value in own.items() if value != others[name]]

    def to_toml(self) -> str:
        """Returns all fields in TOML; None as "none"."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in dataclasses.asdict(self).items())

    @classmethod
    def from_toml(cls, source: str | os.PathLike) -> "TrainRecipe":
        """Reads a file; fields that it does not have are the defaults.

        Raises:
            ValueError: if it is no TOML, or see `override`.
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


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    return json.dumps(list(value) if isinstance(value, tuple) else value)
