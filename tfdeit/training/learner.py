"""The training step: gradients are accumulated, all-reduced, clipped and applied, and the weights are averaged."""

import keras
import tensorflow as tf

from tfdeit.training.masked_images import MaskedImages
from tfdeit.training.tasks import Classification


class Learner(keras.Model):
    """A student with all that its training step needs, for `fit` or, step by step, for the `Trainer`.

    On one device, the step is one function that XLA compiles: forward and backward pass, clipping, optimizer and moving
    averages. Under a `tf.distribute` strategy, create the learner and the student in the strategy's scope.

    Args:
        student: the model to train.
        task: what it learns, see `tfdeit.training.tasks`.
        accumulation: number of parts that each batch is processed in; must divide the batch of a device.
        clip: largest global norm of the gradient, over all devices; 0 for no clipping.
        ema: decay of the moving averages of the weights; 0 for no averages.
        jit: whether XLA compiles the step; ignored on several devices.
        name: name of the model.

    Attributes:
        averages: moving averages of the student's trainable variables, float32; an empty list if `ema` is 0.
    """

    def __init__(
        self,
        student: keras.Model,
        task: Classification | MaskedImages,
        accumulation: int = 1,
        clip: float = 0.0,
        ema: float = 0.0,
        jit: bool = True,
        name: str = "learner",
    ):
        super().__init__(name=name)
        self.student, self.task = student, task
        self.accumulation, self.clip, self.ema = accumulation, clip, ema
        self.averages = []
        for variable in student.trainable_variables if ema else ():
            average = self.add_weight(
                shape=variable.shape, dtype="float32", initializer="zeros", trainable=False, name=variable.name
            )
            average.assign(variable)
            self.averages.append(average)
        self.means = {name: keras.metrics.Mean(name=name) for name in task.figures}
        self.built = True
        self._compiled = tf.function(self._update, jit_compile=jit, autograph=False)

    def compile(self, optimizer: keras.optimizers.Optimizer, **options):
        """Sets the optimizer.

        Args:
            optimizer: from `make_optimizer`, or any Keras optimizer that is created without clipping, gradient
                accumulation, moving averages, loss scaling and weight decay.
            **options: for `keras.Model.compile`; not losses and metrics, which the task has.

        Raises:
            ValueError: for an optimizer that uses one of these.
        """
        names = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor")
        wrong = [name for name in (*names, "gradient_accumulation_steps") if getattr(optimizer, name, None)]
        if wrong:
            raise ValueError(
                f"Expected an optimizer without {', '.join(wrong)}, which only Keras' own training loop applies. Use "
                "the arguments of Learner, and tfdeit.training.optimizer.AdamW for weight decay."
            )
        super().compile(optimizer=optimizer, jit_compile=False, **options)  # the step compiles itself
        self.optimizer.build(self.student.trainable_variables)

    def call(self, inputs, training=None):
        """Returns the outputs of the student."""
        return self.student(inputs, training=training)

    @property
    def metrics(self):
        """The means of the task's figures over an epoch of `fit`."""
        return list(self.means.values())

    def train_step(self, data):
        """Runs one step of `fit`; returns the means of the figures since the beginning of the epoch."""
        pixel_values, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self._count(self.step(pixel_values, labels), pixel_values)

    def test_step(self, data):
        """Runs one step of `evaluate`, with the training loss in inference mode."""
        pixel_values, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        targets = self.task.targets(pixel_values, labels)
        loss, figures = self.task.loss(self.student, pixel_values, targets, training=False)
        return self._count({"loss": loss * _replicas(), **figures}, pixel_values)

    def _count(self, figures, pixel_values):
        for name, mean in self.means.items():
            mean.update_state(figures[name], sample_weight=tf.cast(tf.shape(pixel_values)[0], tf.float32))
        return {name: mean.result() for name, mean in self.means.items()}

    def step(self, pixel_values, labels) -> dict[str, tf.Tensor]:
        """Learns from a batch; under a strategy, from the part of this device.

        Args:
            pixel_values: (B, H, W, 3).
            labels: what the task's `targets` takes.

        Returns:
            Scalars: the task's figures on this batch before the update, "gradient_norm" before clipping, and
            "learning_rate".
        """
        targets = self.task.targets(pixel_values, labels)
        return (self._update if _replicas() > 1 else self._compiled)(pixel_values, targets)

    def _update(self, pixel_values, targets):
        gradients, figures = self._accumulated(pixel_values, targets)
        replica = tf.distribute.get_replica_context()
        if _replicas() > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        if self.clip:  # as torch.nn.utils.clip_grad_norm_
            gradients = [gradient * tf.minimum(self.clip / (norm + 1e-6), 1.0) for gradient in gradients]
        rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        replica.merge_call(self._apply, (gradients, rate))
        return {**figures, "gradient_norm": norm, "learning_rate": rate}

    def _apply(self, strategy, gradients, rate):
        """Updates all copies of the variables; the gradients are the same on each device."""
        variables, optimizer = self.student.trainable_variables, self.optimizer
        for variable, gradient in zip(variables, gradients, strict=True):
            strategy.extended.update(variable.value, self._update_one, (gradient, rate), group=False)
        optimizer.iterations.assign_add(1)
        for average, variable in zip(self.averages, variables, strict=bool(self.averages)):
            strategy.extended.update(average.value, self._blend, (variable.value,), group=False)

    def _update_one(self, variable, gradient, rate):
        self.optimizer.update_step(gradient, variable, rate)

    def _blend(self, average, value):
        average.assign(self.ema * average + (1 - self.ema) * tf.cast(value, average.dtype))

    def _accumulated(self, pixel_values, targets):
        """Returns gradients and figures, averaged over the parts of a batch."""
        count = self.accumulation
        if count == 1:
            return self._backward(pixel_values, targets)
        parts = keras.tree.map_structure(
            lambda x: tf.reshape(x, (count, x.shape[0] // count if x.shape[0] else -1, *x.shape[1:])),
            (pixel_values, targets),
        )

        def add(index, sums):
            part = keras.tree.map_structure(lambda x: x[index], parts)
            return index + 1, keras.tree.map_structure(tf.add, sums, self._backward(*part))

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self.student.trainable_variables]
        start = (zeros, {name: tf.zeros(()) for name in self.task.figures})
        _, sums = tf.while_loop(lambda index, _: index < count, add, (0, start), parallel_iterations=1)
        return keras.tree.map_structure(lambda x: x / count, sums)

    def _backward(self, pixel_values, targets) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss, figures = self.task.loss(self.student, pixel_values, targets)
        values = [variable.value for variable in self.student.trainable_variables]
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return gradients, {"loss": loss * _replicas(), **figures}


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync
