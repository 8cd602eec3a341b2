"""Accuracy, loss, calibration and confusions of a classifier, from logits and labels, batch by batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdeit.data.loading import Pipeline

BINS = 15  # of confidence, as in Guo et al. 2017, arXiv:1706.04599
HEADS = {"both": "logits", "class": "cls_logits", "distillation": "distillation_logits"}


@dataclasses.dataclass(eq=False)
class Evaluation:
    """Sums over the evaluated images, so that the evaluations of parts can be added.

    Attributes:
        confusion: (C, C) int64, the number of images by true class (rows) and predicted class (columns).
        in_top5: number of images whose true class was among the five most probable.
        loss_sum: sum of the cross-entropies.
        bins: (3, BINS) float64: number of images, number of correct predictions and sum of confidences, by confidence
            (the largest probability) in (i / BINS, (i + 1) / BINS].
    """

    confusion: np.ndarray
    in_top5: int
    loss_sum: float
    bins: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> "Evaluation":
        """Returns the evaluation of no images."""
        return cls(np.zeros((num_classes, num_classes), "int64"), 0, 0.0, np.zeros((3, BINS)))

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Adds images. Of equal logits, the one with the lower index counts as the larger.

        Args:
            logits: (B, C) float.
            labels: (B,) class indices.

        Raises:
            ValueError: if logits are not finite, or labels are not class indices.
        """
        logits, labels = np.asarray(logits, "float64"), np.asarray(labels)
        classes = len(self.confusion)
        if not np.isfinite(logits).all():
            raise ValueError("Expected finite logits. Received: NaN or infinity; the model's weights have diverged.")
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"Expected labels below {classes}. Received: {labels.min()} to {labels.max()}")
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        ties = (logits == own) & (np.arange(classes) < labels[:, None])
        rank = ((logits > own) | ties).sum(axis=1)
        shifted = logits - logits.max(axis=1, keepdims=True)
        total = np.exp(shifted).sum(axis=1)
        confidence = 1 / total

        np.add.at(self.confusion, (labels, logits.argmax(axis=1)), 1)
        self.in_top5 += int((rank < 5).sum())
        self.loss_sum += float((np.log(total) - np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]).sum())
        index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        for row, values in zip(self.bins, (np.ones_like(confidence), rank == 0, confidence), strict=True):
            row += np.bincount(index, values, BINS)

    def merge(self, other: "Evaluation") -> "Evaluation":
        """Returns the evaluation of the images of both."""
        return Evaluation(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Fraction of images whose class was the most probable."""
        return float(np.trace(self.confusion)) / self.count

    @property
    def top5(self) -> float:
        """Fraction of images whose class was among the five most probable."""
        return self.in_top5 / self.count

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without label smoothing."""
        return self.loss_sum / self.count

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between accuracy and confidence, by bin (Guo et al. 2017, eq. 3)."""
        _, right, confidence = self.bins
        return float(np.abs(right - confidence).sum()) / self.count

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Count, precision and recall of each class; None where the denominator is zero."""
        right, counts, answers = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        columns = zip(counts.tolist(), _ratios(right, answers), _ratios(right, counts), strict=True)
        return [{"count": n, "precision": precision, "recall": recall} for n, precision, recall in columns]

    def to_json(self) -> dict[str, Any]:
        """Returns the overall figures, serialisable as JSON."""
        return {"images": self.count, "top1": self.top1, "top5": self.top5, "loss": self.loss, "ece": self.ece}


def evaluate(
    model: keras.Model,
    pipeline: Pipeline,
    on_batch: Callable[[Evaluation, int], None] | None = None,
    head: str = "both",
    start: tuple[Evaluation, int] | None = None,
) -> Evaluation:
    """Evaluates a classifier.

    Args:
        model: a classifier, which returns `logits`.
        pipeline: an `eval_pipeline`, whose labels are indices of the model's classes.
        on_batch: called after each batch with the evaluation so far and the number of the next batch.
        head: "both" for the model's logits, which in a distilled model are the mean of its two heads; "class" or
            "distillation" for those of one head.
        start: the last arguments of `on_batch` in an interrupted evaluation, to resume it.

    Returns:
        The evaluation.

    Raises:
        ValueError: if no image can be read, or see `Evaluation.update`.
    """
    evaluation, step = start or (None, 0)
    for batch in pipeline.host(step):
        pixel_values, labels = pipeline.finish(batch)
        if keras.backend.backend() != "tensorflow":
            pixel_values = pixel_values.numpy()
        logits = getattr(model.predict_on_batch(pixel_values), HEADS[head])
        evaluation = evaluation or Evaluation.empty(logits.shape[-1])
        evaluation.update(logits, labels.numpy())
        if on_batch:
            on_batch(evaluation, int(batch["step"]) + 1)
    if evaluation is None:
        raise ValueError(f"Expected at least one image that can be read. Received: none of {len(pipeline.source)}.")
    return evaluation


def _ratios(parts: np.ndarray, totals: np.ndarray) -> list[float | None]:
    return [part / total if total else None for part, total in zip(parts.tolist(), totals.tolist(), strict=True)]
