"""What a run shows: a progress bar, or a line an epoch, and TensorBoard's scalars."""

import time
from typing import Any

import tensorflow as tf
from rich.progress import MofNCompleteColumn

from tfdeit.terminal import attended, progress_bar, result

# What `tf.summary.scalar` writes; that function itself needs TensorBoard.
_SCALAR = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"}, data_class="DATA_CLASS_SCALAR")


class Display:
    """Shows the figures of a trainer; a context.

    Args:
        trainer: the `Trainer`.
        chief: whether to show anything.
    """

    def __init__(self, trainer, chief: bool):
        self.trainer, self.chief = trainer, chief
        self.bar: Any = None
        self.writer: Any = None
        self.marks: list[tuple[int, float]] = []

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
        """Shows a step."""
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
        """Shows how far an evaluation is."""
        if self.bar:
            epoch = self.trainer.state.step // self.trainer.train.steps_per_epoch
            shown = f"epoch {epoch}/{self.trainer.recipe.epochs}  evaluating, {done} of {batches} batches"
            self.bar.update(self.task, description=shown)

    def epoch(self, row: dict[str, Any]):
        """Shows the end of an epoch."""
        self.marks = []  # evaluation is no training
        figures = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        self.write("epoch", row["step"], figures)
        shown = [f"epoch {row['epoch']}/{self.trainer.recipe.epochs}"]
        for name, value in figures.items():
            if name != "gradient_norm":
                shown.append(f"{name} {value:.1%}" if name.endswith("accuracy") else f"{name} {value:.4g}")
        result(row, "  ".join(shown))

    def write(self, prefix: str, step: int, figures: dict[str, float]):
        """Writes TensorBoard's scalars."""
        with self.writer.as_default():
            for name, value in figures.items():
                tf.summary.write(f"{prefix}/{name}", tf.constant(value, tf.float32), step, _SCALAR)

    def speed(self) -> float:
        """Images a second, over all workers, in the last steps."""
        (first, start), (last, end) = self.marks[0], self.marks[-1]
        return (last - first) * self.trainer.recipe.batch_size / (end - start) if last > first else 0.0
