"""Optimizers with PyTorch's arithmetic, and learning-rate schedules."""

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

    Epsilon is added after the bias correction. Keras' own AdamW adds it before, and in 20 steps its weights drift from
    PyTorch's by 0.3% of the update.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: multiplied by the learning rate; variables with fewer than two axes have none.
        beta_1: decay of the moving average of the gradients.
        beta_2: decay of the moving average of their squares.
        epsilon: added to the square root of the second average, for numerical stability.
        exclude: names of further variables without weight decay: the last components of their paths.
        lr_scales: substring of a path, such as "block_3/" -> factor on the learning rate of the variables that have it.
        name: name of the optimizer.
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
        super().__init__(learning_rate=learning_rate, name=name)  # Keras' own weight decay ignores lr_scales
        self.decay, self.beta_1, self.beta_2, self.epsilon = weight_decay, beta_1, beta_2, epsilon
        self.exclude, self.lr_scales = tuple(exclude), dict(lr_scales or {})

    def build(self, variables):
        """Creates the state for `variables`, which must be Keras variables."""
        if self.built:
            return
        super().build(variables)
        self.means, self.squares = self.add_optimizer_variables(variables, ["mean", "square"])
        self.factors = [self._factors(variable) for variable in variables]

    def _factors(self, variable) -> tuple[float, float]:
        """Returns the factor on a variable's learning rate, and its weight decay."""
        scale = math.prod(factor for part, factor in self.lr_scales.items() if part in f"{variable.path}/")
        decays = len(variable.shape) > 1 and variable.path.rsplit("/", 1)[-1] not in self.exclude
        return scale, self.decay if decays else 0.0

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        index = self._get_variable_index(variable)  # see UNDOCUMENTED in tests/test_architecture.py
        scale, decay = self.factors[index]
        direction = self.direction(ops.cast(gradient, variable.dtype), index)
        self.move(variable, direction, ops.cast(learning_rate, variable.dtype) * scale, decay)

    def move(self, variable, direction, lr, decay: float):
        """Takes the step, with decoupled weight decay."""
        self.assign(variable, variable * (1 - lr * decay) - lr * direction)

    def direction(self, gradient, index: int):
        """Updates both averages; returns the first over the square root of the second, both bias-corrected."""
        mean, square = self.means[index], self.squares[index]
        self.assign(mean, mean + (gradient - mean) * (1 - self.beta_1))
        self.assign(square, square * self.beta_2 + ops.square(gradient) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, gradient.dtype)
        # 1 - beta^step
        correction_1, correction_2 = (-ops.expm1(step * math.log(beta)) for beta in (self.beta_1, self.beta_2))
        return mean / correction_1 / (ops.sqrt(square) / ops.sqrt(correction_2) + self.epsilon)

    def get_config(self):
        """Returns the arguments, for `from_config`."""
        own = {name: getattr(self, name) for name in ("name", "beta_1", "beta_2", "epsilon", "lr_scales")}
        rate = super().get_config()["learning_rate"]
        return {**own, "learning_rate": rate, "weight_decay": self.decay, "exclude": list(self.exclude)}


@keras.saving.register_keras_serializable("tfdeit")
class Lamb(AdamW):
    """LAMB (You et al., arXiv:1904.00962): AdamW whose step for each matrix is scaled to the norm of the matrix.

    As in NVIDIA's apex, variables without weight decay are updated as by Adam. The arguments are those of `AdamW`.
    """

    def __init__(self, learning_rate=1e-3, epsilon: float = 1e-6, name: str = "lamb", **options):
        super().__init__(learning_rate, epsilon=epsilon, name=name, **options)

    def move(self, variable, direction, lr, decay: float):
        """Takes the step; with weight decay, its norm is that of the variable times the learning rate."""
        step = direction
        if decay:
            value = ops.convert_to_tensor(variable)
            step = step + decay * value
            own, wanted = (ops.sqrt(ops.sum(ops.square(x))) for x in (value, step))
            step *= ops.where((own > 0) & (wanted > 0), own / ops.maximum(wanted, 1e-30), 1.0)
        self.assign_sub(variable, lr * step)


def layer_scales(config: ViTConfig, decay: float) -> dict[str, float]:
    """Returns the `lr_scales` for layer-wise decay: 1 for the heads, `decay` for the last block, and so on down.

    As in the code of BEiT, arXiv:2106.08254, the embeddings count as one layer below the first block.
    """
    depth = config.num_hidden_layers
    if decay == 1:
        return {}
    scales = {f"/block_{i}/": decay ** (depth - i) for i in range(depth)}
    return scales | {f"/{name}/": decay ** (depth + 1) for name in ("patch_embedding", "token_concatenation")}


# -------------------------------------------------------------------------------------------------- schedules


@keras.saving.register_keras_serializable("tfdeit")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from `start` to `peak`, then half a cosine down to `end`.

    Args:
        peak: the highest learning rate.
        total: number of steps, warm-up included.
        warmup: number of warm-up steps.
        start: learning rate at the first step, if there is a warm-up.
        end: learning rate at the last step.
    """

    def __init__(self, peak: float, total: float, warmup: float = 0.0, start: float = 0.0, end: float = 0.0):
        self.peak, self.total, self.warmup, self.start, self.end = peak, total, warmup, start, end

    def __call__(self, step):
        """Returns the learning rate of a step, counted from 0."""
        return self._value(ops.cast(step, "float32"), self.warmup)

    def _value(self, unit, from_unit):
        """Returns the learning rate at a step or epoch, `unit`; the cosine starts at `from_unit`."""
        progress = ops.clip((unit - from_unit) / max(self.total - from_unit, 1e-9), 0.0, 1.0)
        cosine = self.end + 0.5 * (self.peak - self.end) * (1 + ops.cos(math.pi * progress))
        rise = self.start + unit * (self.peak - self.start) / max(self.warmup, 1e-9)
        return ops.where(unit < self.warmup, rise, cosine)

    def get_config(self):
        """Returns the arguments, for `from_config`."""
        return dict(vars(self))


@keras.saving.register_keras_serializable("tfdeit")
class EpochCosine(Cosine):
    """DeiT's schedule: one value per epoch, set at the end of an epoch for the next, so the first two have the same.

    As in timm's `CosineLRScheduler`, the cosine starts at epoch 0, and the warm-up joins it on its way down.

    Args:
        steps_per_epoch: number of steps in an epoch. The other arguments are `Cosine`'s, in epochs.
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
        config: the model's config.
        steps_per_epoch: number of steps in an epoch.
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
