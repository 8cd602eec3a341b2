"""The progress of an evaluation, so that one that was interrupted can be resumed."""

import argparse
import dataclasses
import hashlib
import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
from keras import ops

from tfdeit.checkpoint.writers import complete_file
from tfdeit.evaluation.figures import Evaluation

SAVE_SECONDS = 10.0  # between writes of the state
STATE = "state.npz"


class EvaluationState:
    """The progress of an evaluation, in memory and in a file in its output directory, if it has one.

    Args:
        args: the arguments of the command.
        model: the classifier.
        pipeline: the images, whose labels are indices of the model's classes.
        processor: the image processor of the pipeline.

    Attributes:
        start: the evaluation so far and the number of the next batch; None at the beginning.

    Raises:
        ValueError: if the directory is not empty, or holds another evaluation than the one to resume.
    """

    def __init__(self, args, model, pipeline, processor):
        self.pipeline, self.start, self.path, self._found, self._saved = pipeline, None, None, {}, time.monotonic()
        if not args.output:
            return
        self.path = Path(args.output, STATE)
        self.identity = identity(args, model, pipeline, processor)
        if args.resume and self.path.exists():
            self._load()
        elif self.path.parent.is_dir() and any(not p.name.startswith(".") for p in self.path.parent.iterdir()):
            raise ValueError(
                f"Expected a new or empty directory to write to. Received: {args.output!r}. Pass --resume to continue "
                "the evaluation in it, if it has the same model, data and options."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def images(self) -> int:
        """Number of images evaluated so far."""
        return self.start[0].count if self.start else 0

    @property
    def failures(self) -> list[tuple[int, str, str]]:
        """Index, name and reason of the images that could not be read."""
        new = {failure.index: dataclasses.astuple(failure) for failure in self.pipeline.failures}
        return sorted((self._found | new).values())

    def update(self, evaluation, step: int):
        """Takes note of the progress, and saves it every `SAVE_SECONDS`.

        An interrupt saves nothing: it may come in the middle of a batch, which is then only partly counted.
        """
        self.start = evaluation, step
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Replaces the state file, which is complete at any time."""
        self._saved = time.monotonic()
        if not (self.path and self.start):
            return
        evaluation, step = self.start
        about = json.dumps({"identity": self.identity, "step": step, "failures": self.failures})
        with complete_file(self.path) as part:
            np.savez_compressed(part, about=np.array(about), **vars(evaluation))

    def _load(self):
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                values = dict(arrays)
                about = json.loads(str(values.pop("about")))
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected the state of an evaluation in {self.path}. Received: a damaged file ({error}). Start again "
                "in another directory."
            ) from None
        theirs = about["identity"]
        different = [name for name in self.identity if self.identity[name] != theirs.get(name)]
        if different:
            was, now = (", ".join(f"{name} {side.get(name)}" for name in different) for side in (theirs, self.identity))
            raise ValueError(
                f"Expected the values that {self.path.parent} was begun with: {was}. Received: {now}. Use another "
                "directory."
            )
        values = {name: value if value.ndim else value.item() for name, value in values.items()}
        self.start = Evaluation(**values), about["step"]
        self._found = {failure[0]: tuple(failure) for failure in about["failures"]}


def identity(args: argparse.Namespace, model, pipeline, processor) -> dict[str, str]:
    """Returns what must be the same to resume an evaluation: weights, images, preprocessing, batch size and head."""
    weights, data = hashlib.sha256(), hashlib.sha256()
    for variable in model.weights:
        weights.update(ops.convert_to_numpy(variable).tobytes())
    data.update(json.dumps([os.path.realpath(args.data), args.split]).encode())
    data.update(pipeline.source.labels.tobytes())
    return {
        "model": weights.hexdigest()[:16],
        "data": f"{len(pipeline.source)} images ({data.hexdigest()[:16]})",
        "preprocessing": json.dumps(processor.to_dict(), sort_keys=True),
        "batch size": str(args.batch_size),
        "head": args.head,
    }
