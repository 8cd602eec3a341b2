"""Tasks: what a student learns. A task defines targets, the student's loss on them, and the figures of an evaluation.

A task has
    figures: the names of the figures that `loss` and `evaluate` return, "loss" first;
    best: the figure that decides which checkpoint is the best, and whether larger is better;
    targets(pixel_values, labels): any structure of tensors (B, ...), computed outside the compiled step;
    loss(student, pixel_values, targets, training): the loss, scaled for tf.distribute, and the other figures, as means
        over B;
    evaluate(model, pipeline, on_batch): the figures as floats; calls `on_batch` with the number of batches done.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfdeit.data.loading import Pipeline
from tfdeit.evaluation.figures import evaluate
from tfdeit.network.backbone import PretrainedModel
from tfdeit.training.losses import DistillationLoss, PresentCrossEntropy, SoftCrossEntropy
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.teacher import Teacher

LOSSES = {"cross_entropy": SoftCrossEntropy, "binary_cross_entropy": PresentCrossEntropy}


class Classification:
    """Learning from labels, and from a teacher if there is one.

    The teacher trains the distillation head, or the only head. Without a teacher, a student with two heads is trained
    on the mean of their logits.

    Args:
        loss: loss for label distributions (B, C) and logits (B, C).
        distillation: loss for pairs of them, see `DistillationLoss`; None without a teacher.
        teacher: a teacher, prepared for the student.
    """

    figures = ("loss", "accuracy")
    best = ("accuracy", True)

    def __init__(
        self, loss: keras.losses.Loss, distillation: DistillationLoss | None = None, teacher: Teacher | None = None
    ):
        if (distillation is None) != (teacher is None):
            raise ValueError(
                f"Expected distillation and teacher together. Received: distillation={distillation}, teacher={teacher}"
            )
        self.of_labels, self.distillation, self.teacher = loss, distillation, teacher

    def targets(self, pixel_values, labels):
        """Returns the labels, (B, C) or (B,); with a teacher, a pair of them and its logits (B, C)."""
        return (labels, self.teacher(pixel_values)) if self.teacher else labels

    def loss(self, student, pixel_values, targets, training=True):
        """Returns the loss, and the accuracy: how often the predicted class has the largest share of the label."""
        outputs = student(pixel_values, training=training)
        labels = targets[0] if self.teacher else targets
        if len(labels.shape) == 1:
            labels = tf.one_hot(labels, outputs.logits.shape[-1])
        if self.teacher:
            cls_logits = getattr(outputs, "cls_logits", outputs.logits)
            distillation_logits = getattr(outputs, "distillation_logits", outputs.logits)
            loss = self.distillation((labels, targets[1]), (cls_logits, distillation_logits))
        else:
            loss = self.of_labels(labels, outputs.logits)
        right = tf.argmax(outputs.logits, axis=-1) == tf.argmax(labels, axis=-1)
        return loss, {"accuracy": tf.reduce_mean(tf.cast(right, tf.float32))}

    def evaluate(self, model: keras.Model, pipeline: Pipeline, on_batch: Callable[[int], None]) -> dict[str, float]:
        """Returns cross-entropy and top-1 accuracy; see `tfdeit.evaluation.figures.evaluate`."""
        evaluation = evaluate(model, pipeline, lambda _, done: on_batch(done))
        return {"loss": evaluation.loss, "accuracy": evaluation.top1}


def classification(recipe: TrainRecipe, student: PretrainedModel, teacher: Teacher | None = None) -> Classification:
    """Returns the task of a recipe.

    Args:
        recipe: the recipe.
        student: the model to train.
        teacher: the teacher, which gets prepared for the student; given if and only if the recipe distils.

    Raises:
        ValueError: for a teacher that is missing or does not fit, or a student without a distillation token.
    """
    loss = LOSSES[recipe.loss]()
    if recipe.distillation == "none":
        if teacher:
            raise ValueError(
                "Expected a recipe that distils, as there is a teacher. Received: distillation='none'. Set "
                "distillation=hard or distillation=soft, or leave the teacher out."
            )
        return Classification(loss)
    if teacher is None:
        raise ValueError(
            f"Expected a teacher, as the recipe distils. Received: distillation={recipe.distillation!r} without a "
            "teacher. Pass one, or set distillation=none."
        )
    if recipe.heads == "both" and not hasattr(student, "distillation_classifier"):
        raise ValueError(
            f"Expected a student with a distillation token, to learn from a teacher. Received: "
            f"{type(student).__name__}. Choose a distilled DeiT (deit_tiny_distilled_patch16_224, ...), or set "
            "heads=class to distil into the class token."
        )
    teacher.prepare(list(student.config.id2label.values()), student.config.image_hw, recipe.mean, recipe.std)
    distillation = DistillationLoss(loss, recipe.distillation, recipe.distillation_alpha, recipe.distillation_tau)
    return Classification(loss, distillation, teacher)
