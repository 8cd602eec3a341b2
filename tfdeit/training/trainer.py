"""The training loop: steps, checkpoints, evaluations, and an orderly stop, on one device or many."""

import collections
import contextlib
import csv
import dataclasses
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfdeit.checkpoint.files import named_variables
from tfdeit.checkpoint.writers import complete_file
from tfdeit.data.loading import Pipeline
from tfdeit.presentation.charts import training_curves
from tfdeit.presentation.terminal import counted
from tfdeit.training.checkpoints import Checkpoints
from tfdeit.training.display import Display
from tfdeit.training.learner import Learner
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.workers import Workers

LAG = 2  # steps started before the figures of an earlier one are read, so that the device never waits for the host


class Diverged(RuntimeError):
    """The loss is no longer finite."""


class _Stopped(Exception):
    """A signal arrived during an evaluation."""


@dataclasses.dataclass
class State:
    """The progress of a trainer, stored in checkpoints.

    Attributes:
        step: number of steps done.
        sums: sums of the figures over the steps of this epoch; empty once the epoch has been evaluated.
        history: the figures of each epoch.
        best: step and value of the best evaluation.
    """

    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None


class Trainer:
    """Trains a learner, and keeps a record in a directory: checkpoints/, tensorboard/, history.csv, curves.png.

    What it does depends on the step only, so a run that is killed and resumed ends with the same weights.

    Args:
        learner: a compiled learner; under a strategy, one compiled in its scope.
        recipe: the recipe, for the number of epochs and when to save.
        train: endless training batches, those of this worker.
        validation: all images to evaluate on after each epoch; None for no evaluation.
        directory: directory of the run.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: TrainRecipe,
        train: Pipeline,
        validation: Pipeline | None,
        directory: str | os.PathLike,
    ):
        self.learner, self.recipe, self.train, self.validation = learner, recipe, train, validation
        self.directory, self.workers = Path(directory), Workers(learner.distribute_strategy)
        self.checkpoints = Checkpoints(self.directory / "checkpoints", recipe.keep)
        self.state, self.stopping = State(), False
        self.pending: collections.deque = collections.deque()
        self.total = recipe.epochs * train.steps_per_epoch
        # Another model to evaluate and to save, outside of any strategy, which gets raw or averaged weights.
        self.model = type(learner.student).from_config(learner.student.get_config())
        self.model.compile(jit_compile=False)  # XLA would compile again for a smaller last batch

    def fit(self) -> bool:
        """Trains to the end, starting from the last checkpoint if there is one.

        Returns:
            Whether the end was reached; False after SIGTERM or SIGINT, with a checkpoint of the last step.

        Raises:
            Diverged: if the loss is not finite; no checkpoint is written after that.
        """
        if self.workers.chief:
            self.checkpoints.remove_unfinished()
        if steps := self.checkpoints.steps():
            self.state = State(**self.checkpoints.restore(self.learner, steps[-1]))
        self.workers.vary_seeds(self.learner.student)
        step = self.workers.distributed(self.learner)
        state, per_epoch = self.state, self.train.steps_per_epoch
        with self._signals(), Display(self, self.workers.chief) as self.display:
            batches = self.workers.batches(self.train, state.step)
            if state.sums and state.step % per_epoch == 0:  # stopped during an evaluation
                self._end_epoch()
            while state.step < self.total and not self.stopping:
                figures = step(next(batches), self.signalled)
                state.step += 1
                self.pending.append((state.step, figures))
                self._read(LAG)
                self.stopping |= self.signalled and self.workers.count == 1
                if state.step % per_epoch == 0:
                    self._end_epoch()
                elif self.recipe.save_every and state.step % self.recipe.save_every == 0:
                    self.save()
            if state.step % per_epoch:
                self.save()
        return state.step == self.total and not state.sums

    def save(self):
        """Writes a checkpoint of the last step."""
        self._read(0)
        if self.workers.chief:
            best = self.state.best and self.state.best["step"]
            self.checkpoints.save(self.learner, self.state.step, dataclasses.asdict(self.state), best)

    def weights(self, averaged: bool):
        """Returns `self.model` with the student's weights, or with their moving averages."""
        own, learner = named_variables(self.model), self.learner
        variables = named_variables(learner.student)
        trained = [name for name, variable in variables.items() if variable.trainable]
        averages = dict(zip(trained, learner.averages, strict=True)) if averaged else {}
        for name, variable in own.items():
            variable.assign(averages.get(name, variables[name]).numpy())
        return self.model

    def _end_epoch(self):
        self._read(0)
        state, count = self.state, self.train.steps_per_epoch
        row = {"epoch": state.step // count, "step": state.step}
        row |= {name: total / count for name, total in state.sums.items()}
        if self.workers.chief:
            try:
                row |= self._evaluate()
            except _Stopped:
                self.stopping = True
                return self.save()
            state.history.append(row)
            self._choose_best(row)
            self.display.epoch(row)
            images = counted(len(self.train.source), "image")
            held_out = f", {len(self.validation.source):,} to evaluate on" if self.validation else ""
            write_history(self.directory, state.history, f"{self.directory.name}: {images} to train on{held_out}")
        state.sums = {}
        self.save()

    def _evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}

        def on_batch(done):
            self.display.evaluation(done, self.validation.steps_per_epoch)
            if self.signalled and self.workers.count == 1:  # with several, the others would wait for this one
                raise _Stopped

        kinds = {"val": False, "ema_val": True} if self.learner.averages else {"val": False}
        row: dict[str, float] = {}
        for prefix, averaged in kinds.items():
            figures = self.learner.task.evaluate(self.weights(averaged), self.validation, on_batch)
            row |= {f"{prefix}_{name}": value for name, value in figures.items()}
        return row

    def _choose_best(self, row):
        name, larger = self.learner.task.best
        values = [row[key] for key in (f"val_{name}", f"ema_val_{name}") if key in row]
        if not values:
            return
        value = max(values) if larger else min(values)
        best = self.state.best
        if best is None or (value > best["value"] if larger else value < best["value"]):
            self.state.best = {"step": row["step"], "value": value}

    def _read(self, lag: int):
        """Reads the figures of all steps but the last `lag`."""
        while len(self.pending) > lag:
            step, figures = self.pending.popleft()
            values = {name: float(value) for name, value in figures.items()}
            # All workers read this at the same step, so all stop after the same step.
            self.stopping |= bool(values.pop("stop"))
            if not math.isfinite(values["loss"]):
                self._diverge(step, values["loss"])
            for name, value in values.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
            self.display.step(step, values)

    def _diverge(self, step: int, loss: float):
        saved = self.checkpoints.steps()
        good = self.checkpoints.path(saved[-1]) if saved else "none"
        raise Diverged(
            f"Expected a finite loss. Received: {loss} at step {step} of {self.total}. The images of its batch: "
            f"{', '.join(self.train.names(step - 1))}. The last good checkpoint: {good}. Lower the learning rate, or "
            "clip the gradient (clip=1)."
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Makes SIGTERM and SIGINT stop training after the current step."""
        self.signalled, kept = False, {}

        def stop(number, frame):
            self.signalled = True

        if threading.current_thread() is threading.main_thread():
            kept = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def write_history(directory: Path, history: list[dict[str, Any]], title: str):
    """Writes history.csv and curves.png, with a title."""
    with complete_file(directory / "history.csv") as file, open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(history[-1]), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)
    with complete_file(directory / "curves.png") as file:
        training_curves(history, title).save(file)
