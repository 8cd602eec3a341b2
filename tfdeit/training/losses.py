"""Losses for soft labels and for distillation, computed as in Facebook's losses.py and PyTorch.

All take logits. They are `keras.losses.Loss` objects, so `tf.distribute` scales them.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfdeit")
class SoftCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits (B, C) with label distributions (B, C), mean over images."""

    def call(self, y_true, y_pred):
        """Returns the loss of each image, (B,)."""
        return -ops.sum(y_true * ops.log_softmax(y_pred), axis=-1)


@keras.saving.register_keras_serializable("tfdeit")
class PresentCrossEntropy(keras.losses.Loss):
    """Binary cross-entropy of logits (B, C) with the presence of each class, mean over images and classes.

    A class is present if its label is above 0: in a mixed image, both classes are. From DeiT III, arXiv:2204.07118.
    """

    def call(self, y_true, y_pred):
        """Returns the loss of each image, (B,)."""
        present = ops.cast(y_true > 0, y_pred.dtype)
        return ops.mean(ops.softplus(y_pred) - present * y_pred, axis=-1)


@keras.saving.register_keras_serializable("tfdeit")
class DistillationLoss(keras.losses.Loss):
    """Loss of a student with two heads: the first learns from the labels, the second from the teacher.

    It is (1 - alpha) * base(labels, class logits) + alpha * distillation, where distillation is, for a `kind` of
    "hard": the cross-entropy of the distillation logits with the teacher's most probable class;
    "soft": tau^2 / C * KL(teacher || student) of the probabilities at temperature tau, mean over images.

    Equations 2 and 3 of DeiT, arXiv:2012.12877; the division by C is from Facebook's code.

    Args:
        base: loss for the labels.
        kind: "hard" or "soft".
        alpha: weight of the distillation, in [0, 1].
        tau: temperature of soft distillation, above 0.
        name: name of the loss.
    """

    def __init__(self, base: keras.losses.Loss, kind: str, alpha: float = 0.5, tau: float = 1.0, name=None):
        super().__init__(name=name)
        if kind not in ("hard", "soft"):
            raise ValueError(f"Expected kind to be 'hard' or 'soft'. Received: kind={kind!r}")
        self.base, self.kind, self.alpha, self.tau = base, kind, alpha, tau

    def call(self, y_true, y_pred):
        """Returns the loss of each image.

        Args:
            y_true: pair of label distributions (B, C) and the teacher's logits (B, C).
            y_pred: pair of logits of the class head (B, C) and of the distillation head (B, C).
        """
        (labels, teacher), (logits, distillation_logits) = y_true, y_pred
        if self.kind == "hard":
            guidance = ops.sparse_categorical_crossentropy(
                ops.argmax(teacher, axis=-1), distillation_logits, from_logits=True
            )
        else:
            target, own = (ops.log_softmax(x / self.tau) for x in (teacher, distillation_logits))
            guidance = ops.mean(ops.exp(target) * (target - own), axis=-1) * self.tau**2
        return (1 - self.alpha) * self.base.call(labels, logits) + self.alpha * guidance

    def get_config(self):
        """Returns the arguments, for `from_config`."""
        base = keras.saving.serialize_keras_object(self.base)
        return {"base": base, "kind": self.kind, "alpha": self.alpha, "tau": self.tau, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """Returns the loss that `get_config` describes."""
        return cls(**{**config, "base": keras.saving.deserialize_keras_object(config["base"])})
