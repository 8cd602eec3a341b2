"""Checkpoints of a run: safetensors files, written completely or not at all; the latest and the best are kept."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors

from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.files import named_variables
from tfdeit.checkpoint.readers import read_safetensors
from tfdeit.checkpoint.writers import complete_file, write_safetensors
from tfdeit.training.learner import Learner

_NAME = re.compile(r"step-(\d{9})\.safetensors")


class Checkpoints:
    """The checkpoints in a directory.

    Each holds everything that the next step depends on: weights, optimizer, moving averages, random states and, in its
    header, the state of the trainer.

    Args:
        directory: where they are; created when the first one is saved.
        keep: how many of the latest to keep.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3):
        self.directory, self.keep = Path(directory), keep

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        names = (path.name for path in self.directory.iterdir()) if self.directory.is_dir() else ()
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def path(self, step: int) -> Path:
        """Returns the file for a step."""
        return self.directory / f"step-{step:09}.safetensors"

    def save(self, learner: Learner, step: int, state: dict[str, Any], best: int | None = None):
        """Writes a checkpoint, flushed to disk before it gets its name; then removes those that are no longer kept.

        Args:
            learner: a compiled learner.
            step: the number of the step, which names the file.
            state: what else to store, serialisable as JSON.
            best: the step whose checkpoint is kept, however old it is.
        """
        tensors = {name: variable.numpy() for name, variable in all_variables(learner).items()}
        with complete_file(self.path(step)) as file:
            write_safetensors(file, tensors, {"state": json.dumps(state)})
            _synchronise(file)
        _synchronise(self.directory)
        for old in set(self.steps()[: -self.keep]) - {best}:
            self.path(old).unlink()

    def restore(self, learner: Learner, step: int) -> dict[str, Any]:
        """Reads a checkpoint into `learner`, which is compiled as the one that was saved, and returns the state.

        Raises:
            CheckpointError: if it is damaged, or from another model or optimizer.
        """
        path, variables = self.path(step), all_variables(learner)
        arrays = read_safetensors(path)
        wrong = sorted(variables.keys() ^ arrays.keys())
        wrong += [name for name in variables.keys() & arrays.keys() if variables[name].shape != arrays[name].shape]
        if wrong:
            raise CheckpointError(
                f"Expected {path} to hold the variables of this model, optimizer and recipe. Received a file that "
                f"differs in {listing(wrong)}. Resume with the options that the run was started with."
            )
        for name, variable in variables.items():
            variable.assign(np.asarray(arrays[name]))
        with safetensors.safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["state"])

    def remove_unfinished(self):
        """Removes what a killed process left half-written."""
        for path in self.directory.glob(".saving-*"):
            shutil.rmtree(path)


def all_variables(learner: Learner) -> dict[str, keras.Variable]:
    """Returns all variables that the next step depends on, under names that are the same in every process."""
    weights = named_variables(learner.student)
    known = {id(variable) for variable in weights.values()}
    random = [variable for variable in learner.student.variables if id(variable) not in known]
    trained = [name for name, variable in weights.items() if variable.trainable]
    return {
        **{f"student/{name}": variable for name, variable in weights.items()},
        **{f"random/{index}": variable for index, variable in enumerate(random)},
        **{f"optimizer/{index}": variable for index, variable in enumerate(learner.optimizer.variables)},
        **{f"average/{name}": variable for name, variable in zip(trained, learner.averages, strict=False)},
    }


def _synchronise(path: Path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
