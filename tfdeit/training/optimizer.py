"""Optimizers with PyTorch's arithmetic, and schedules of the learning rate."""

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from tfdeit.config import ViTConfig
from tfdeit.training.recipe import TrainRecipe

NO_DECAY = ("cls_token", "distillation_token", "mask_token", "position_embeddings")


@keras.saving.register_keras_serializable("tfdeit")
class AdamW(keras.optimizers.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) as PyTorch computes it.

    Epsilon is added after the bias correction; Keras' own AdamW adds it before, and drifts from PyTorch's weights by
    0.3% of the update in 20 steps.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: in proportion to the learning rate; variables with fewer than two axes have none.
        beta_1: decay of the mean of gradients.
        beta_2: decay of the mean of their squares.
        epsilon: added to the root of that.
        exclude: names of further variables without weight decay, the last part of their path.
        lr_scales: parts of paths, such as "block_3/" -> factor of the learning rate of variables with that part.
        name: of the optimizer.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        exclude: Sequence[str] = NO_DECAY,
        lr_scales: Mapping[str, float] | None = None,
        name: str = "adamw",
    ):
        super().__init__(learning_rate=learning_rate, name=name)  # Keras' own weight decay knows no lr_scales
        self.decay, self.beta_1, self.beta_2, self.epsilon = weight_decay, beta_1, beta_2, epsilon
        self.exclude, self.lr_scales = tuple(exclude), dict(lr_scales or {})

    def build(self, variables):
        """Makes the state of `variables`, which must be Keras variables."""
        if self.built:
            return
        super().build(variables)
        self.means, self.squares = self.add_optimizer_variables(variables, ["mean", "square"])
        self.factors = [self._factors(variable) for variable in variables]

    def _factors(self, variable) -> tuple[float, float]:
        """Returns the factor of the learning rate, and the weight decay."""
        scale = math.prod(factor for part, factor in self.lr_scales.items() if part in f"{variable.path}/")
        decays = len(variable.shape) > 1 and variable.path.rsplit("/", 1)[-1] not in self.exclude
        return scale, self.decay if decays else 0.0

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        index = self._get_variable_index(variable)
        scale, decay = self.factors[index]
        lr = ops.cast(learning_rate, variable.dtype) * scale
        direction = self.direction(ops.cast(gradient, variable.dtype), index)
        self.assign(variable, variable * (1 - lr * decay) - lr * direction)

    def direction(self, gradient, index: int):
        """Returns the mean of gradients over the root of the mean of squares, both corrected, and moves the means."""
        mean, square = self.means[index], self.squares[index]
        self.assign(mean, mean + (gradient - mean) * (1 - self.beta_1))
        self.assign(square, square * self.beta_2 + ops.square(gradient) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, gradient.dtype)
        corrections = (-ops.expm1(step * math.log(beta)) for beta in (self.beta_1, self.beta_2))  # 1 - beta^step
        correction_1, correction_2 = corrections
        return mean / correction_1 / (ops.sqrt(square) / ops.sqrt(correction_2) + self.epsilon)

    def get_config(self):
        """Returns the arguments, for `from_config`."""
        own = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon", "lr_scales")}
        rate = super().get_config()["learning_rate"]
        return {
            "learning_rate": rate,
            "name": self.name,
            "weight_decay": self.decay,
            "exclude": list(self.exclude),
            **own,
        }


@keras.saving.register_keras_serializable("tfdeit")
class Lamb(AdamW):
    """LAMB (You et al., arXiv:1904.00962): AdamW, with the step of each matrix in proportion to its norm.

    As in NVIDIA's apex, variables without weight decay are updated as by Adam. Arguments are those of `AdamW`.
    """

    def __init__(self, learning_rate=1e-3, epsilon: float = 1e-6, name: str = "lamb", **options):
        super().__init__(learning_rate, epsilon=epsilon, name=name, **options)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        index = self._get_variable_index(variable)
        scale, decay = self.factors[index]
        step = self.direction(ops.cast(gradient, variable.dtype), index)
        if decay:
            value = ops.convert_to_tensor(variable)
            step = step + decay * value
            own, wanted = (ops.sqrt(ops.sum(ops.square(x))) for x in (value, step))
            step *= ops.where((own > 0) & (wanted > 0), own / ops.maximum(wanted, 1e-30), 1.0)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * scale * step)


def layer_scales(config: ViTConfig, decay: float) -> dict[str, float]:
    """Returns the `lr_scales` of layer-wise decay: 1 for the heads, `decay` for the last block, and so on down.

    As in BEiT's code, arXiv:2106.08254: embeddings count as one layer below the first block.
    """
    depth = config.num_hidden_layers
    if decay == 1:
        return {}
    scales = {f"/block_{i}/": decay ** (depth - i) for i in range(depth)}
    return scales | {f"/{name}/": decay ** (depth + 1) for name in ("patch_embedding", "token_concatenation")}


# -------------------------------------------------------------------------------------------------- schedules


@keras.saving.register_keras_serializable("tfdeit")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from `start` to `peak` in the first `warmup` units, then a half cosine to `end` at unit `total`.

    Args:
        peak: the highest learning rate.
        total: units in all.
        warmup: units of warming up.
        start: learning rate at the beginning, if there is a warm-up.
        end: learning rate at the end.
    """

    def __init__(self, peak: float, total: float, warmup: float = 0.0, start: float = 0.0, end: float = 0.0):
        self.peak, self.total, self.warmup, self.start, self.end = peak, total, warmup, start, end

    def __call__(self, step):
        """Returns the learning rate of a step, counted from 0."""
        return self._value(ops.cast(step, "float32"), self.warmup)

    def _value(self, unit, from_unit):
        """Returns the value at a unit; the cosine is that of a period which began at `from_unit`."""
        progress = ops.clip((unit - from_unit) / max(self.total - from_unit, 1e-9), 0.0, 1.0)
        cosine = self.end + 0.5 * (self.peak - self.end) * (1 + ops.cos(math.pi * progress))
        rise = self.start + unit * (self.peak - self.start) / max(self.warmup, 1e-9)
        return ops.where(unit < self.warmup, rise, cosine)

    def get_config(self):
        """Returns the arguments, for `from_config`."""
        return dict(vars(self))


@keras.saving.register_keras_serializable("tfdeit")
class EpochCosine(Cosine):
    """DeiT's schedule: one value an epoch; the first two have that of the start, for it is renewed after an epoch.

    The cosine begins at epoch 0, so that it is joined after the warm-up (timm's `CosineLRScheduler`).

    Args:
        steps_per_epoch: steps in an epoch; the other arguments are `Cosine`'s, in epochs.
    """

    def __init__(self, peak, total, warmup=0.0, start=0.0, end=0.0, steps_per_epoch: int = 1):
        super().__init__(peak, total, warmup, start, end)
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        """Returns the learning rate of a step, counted from 0."""
        epoch = ops.cast(step // self.steps_per_epoch, "float32")
        return self._value(ops.maximum(epoch - 1, 0.0), 0.0)


def make_optimizer(recipe: TrainRecipe, config: ViTConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a recipe, with its schedule.

    Args:
        recipe: the recipe.
        config: of the model.
        steps_per_epoch: steps in an epoch.
    """
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(make_schedule(recipe, steps_per_epoch), momentum=0.9)
    kind = {"adamw": AdamW, "lamb": Lamb}[recipe.optimizer]
    scales = layer_scales(config, recipe.layer_decay)
    return kind(make_schedule(recipe, steps_per_epoch), weight_decay=recipe.weight_decay, lr_scales=scales)


def make_schedule(recipe: TrainRecipe, steps_per_epoch: int) -> Cosine:
    """Returns the schedule of a recipe; see `make_optimizer`."""
    peak, warmup, start = recipe.peak_lr, recipe.warmup_epochs, recipe.warmup_lr
    if recipe.schedule == "epoch_cosine":
        return EpochCosine(peak, recipe.epochs, warmup, start, recipe.min_lr, steps_per_epoch)
    end = peak if recipe.schedule == "constant" else recipe.min_lr
    return Cosine(peak, recipe.epochs * steps_per_epoch, warmup * steps_per_epoch, start, end)
