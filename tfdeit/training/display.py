"""What a run shows: a line per epoch, a progress bar in a terminal, and scalars for TensorBoard."""

import time
from typing import Any

import tensorflow as tf
from rich.progress import MofNCompleteColumn

from tfdeit.presentation.terminal import attended, progress_bar, result

# The metadata that `tf.summary.scalar` writes: that function itself needs TensorBoard to be installed.
_SCALAR = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"}, data_class="DATA_CLASS_SCALAR")


class Display:
    """Context manager that shows the figures of a trainer.

    Args:
        trainer: the `Trainer`.
        chief: whether this process shows anything.
    """

    def __init__(self, trainer, chief: bool):
        self.trainer, self.chief = trainer, chief
        self.bar: Any = None
        self.writer: Any = None
        self.marks: list[tuple[int, float]] = []  # the latest steps and when they ended

    def __enter__(self):
        if not self.chief:
            return self
        self.writer = tf.summary.create_file_writer(str(self.trainer.directory / "tensorboard"))
        if attended():
            self.bar = progress_bar(MofNCompleteColumn())
            self.task = self.bar.add_task("compiling", total=self.trainer.total, completed=self.trainer.state.step)
            self.bar.start()
        return self

    def __exit__(self, *error):
        if self.bar:
            self.bar.stop()
        if self.writer:
            self.writer.close()

    def step(self, step: int, figures: dict[str, float]):
        """Shows the figures of a step."""
        if not self.chief:
            return
        self.marks = [*self.marks[-20:], (step, time.monotonic())]
        figures = {**figures, "images_per_second": self.speed()}
        self.write("train", step, figures)
        if self.bar:
            shown = f"loss {figures['loss']:.3f}"
            if "accuracy" in figures:
                shown += f"  accuracy {figures['accuracy']:.1%}"
            epoch = (step - 1) // self.trainer.train.steps_per_epoch + 1
            shown = f"epoch {epoch}/{self.trainer.recipe.epochs}  {shown}  {figures['images_per_second']:.0f} images/s"
            self.bar.update(self.task, completed=step, description=shown)

    def evaluation(self, done: int, batches: int):
        """Shows the progress of an evaluation."""
        if self.bar:
            epoch = self.trainer.state.step // self.trainer.train.steps_per_epoch
            shown = f"epoch {epoch}/{self.trainer.recipe.epochs}  evaluating, {done} of {batches} batches"
            self.bar.update(self.task, description=shown)

    def epoch(self, row: dict[str, Any]):
        """Shows the figures of an epoch."""
        self.marks = []  # the time of the evaluation does not count
        figures = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        self.write("epoch", row["step"], figures)
        shown = [f"epoch {row['epoch']}/{self.trainer.recipe.epochs}"]
        for name, value in figures.items():
            if name != "gradient_norm":
                shown.append(f"{name} {value:.1%}" if name.endswith("accuracy") else f"{name} {value:.4g}")
        result(row, "  ".join(shown))

    def write(self, prefix: str, step: int, figures: dict[str, float]):
        """Writes scalars for TensorBoard."""
        with self.writer.as_default():
            for name, value in figures.items():
                tf.summary.write(f"{prefix}/{name}", tf.constant(value, tf.float32), step, _SCALAR)

    def speed(self) -> float:
        """Returns images per second over the latest steps, of all workers together."""
        (first, start), (last, end) = self.marks[0], self.marks[-1]
        return (last - first) * self.trainer.recipe.batch_size / (end - start) if last > first else 0.0
