"""Operations written so that TensorFlow's graph optimiser fuses each into one oneDNN kernel.

This is for inference in a graph on a CPU. Eagerly, under XLA, on a GPU, in training and on other backends, they are
Keras' own operations, which compute the same.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import keras
from keras import ops

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Makes graphs traced inside it use Keras' own operations, for converters that do not support the fused form."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def on_tensorflow_cpu() -> bool:
    """Whether the backend is TensorFlow, without a GPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")


def fusing(training: bool | None) -> bool:
    """Whether the code that is running is being traced into a TensorFlow graph, for inference on a CPU."""
    if training or _plain.get() or not on_tensorflow_cpu():
        return False
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import (
        GraphOrParentsInXlaContext,  # see UNDOCUMENTED in tests/test_architecture.py
    )

    return not (tf.executing_eagerly() or GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


class LayerNorm(keras.layers.LayerNormalization):
    """Keras' LayerNorm over the last axis, with statistics in at least float32.

    TensorFlow's remapper recognises one form of it with variables: a batch normalisation of rows, then scale and shift.
    """

    def call(self, inputs, training=None):
        """Normalises (..., D)."""
        if not fusing(training):
            return super().call(inputs)
        import tensorflow as tf

        width = inputs.shape[-1]
        dtype = tf.float32 if inputs.dtype == tf.float16 else inputs.dtype  # no kernel for float16
        rows = tf.cast(inputs if len(inputs.shape) == 2 else tf.reshape(inputs, (-1, width)), dtype)
        # Hidden from constant folding, which would replace `Fill` if the shape is static: the remapper looks for it.
        count = tf.raw_ops.PlaceholderWithDefault(input=tf.shape(rows)[:1], shape=(1,))
        normalised = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(rows, (1, -1, width, 1)),
            scale=tf.fill(count, 1.0),
            offset=tf.fill(count, 0.0),
            mean=tf.constant([]),
            variance=tf.constant([]),
            epsilon=self.epsilon,
            data_format="NCHW",
            is_training=True,
        ).y
        outputs = tf.reshape(normalised, tf.shape(rows)) * tf.cast(self.gamma, dtype) + tf.cast(self.beta, dtype)
        return tf.cast(outputs if len(inputs.shape) == 2 else tf.reshape(outputs, tf.shape(inputs)), inputs.dtype)


def softmax(scores, training: bool | None):
    """Softmax over the last axis, computed in float32; oneDNN's does so for bfloat16 without casts."""
    if fusing(training) and scores.dtype == "bfloat16":
        return ops.softmax(scores, axis=-1)
    return ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), scores.dtype)


def reshape_like(inputs, other):
    """Reshapes to the shape of `other`, so that TensorFlow's optimiser knows the two are equal even if dynamic.

    It fuses the addition of a residual into a matrix product only if it can prove that the shapes are equal.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.reshape(inputs, tf.shape(other))
    return ops.reshape(inputs, ops.shape(other))
