"""How far an evaluation is, so that one that was interrupted goes on."""

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
from tfdeit.evaluation import Evaluation

SAVE_SECONDS = 10.0  # between two states on the disk
STATE = "state.npz"


class EvaluationState:
    """How far an evaluation is, in memory and in the state file of its directory, if it has one.

    Args:
        args: of the command.
        model: the classifier.
        pipeline: of the images, its labels those of the model.
        processor: what makes pixel values.

    Attributes:
        start: the evaluation and the number of the batch to go on with; None to begin.

    Raises:
        ValueError: if the directory holds what is not to be overwritten, or another evaluation.
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
                f"Expected a new or empty directory to write to. Received: {args.output!r}. --resume goes on with the "
                "evaluation there, if it is one of the same model, data and options."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def images(self) -> int:
        """How many images have been evaluated."""
        return self.start[0].count if self.start else 0

    @property
    def failures(self) -> list[tuple[int, str, str]]:
        """Index, name and reason of the images that could not be read."""
        new = {failure.index: dataclasses.astuple(failure) for failure in self.pipeline.failures}
        return sorted((self._found | new).values())

    def update(self, evaluation, step: int):
        """Notes what is done; saves it if the last time is long ago.

        Nothing is saved at an interrupt: it may come in the middle of a batch, half of which is counted.
        """
        self.start = evaluation, step
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Writes the state file, which is the old one or the new one at any time."""
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
                f"Expected the state of an evaluation. Received: {self.path}, damaged ({error})."
            ) from None
        theirs = about["identity"]
        different = [name for name in self.identity if self.identity[name] != theirs.get(name)]
        if different:
            raise ValueError(
                f"Expected what {self.path.parent} was begun with: "
                f"{', '.join(f'{name} {theirs.get(name)}' for name in different)}. Received: "
                f"{', '.join(f'{name} {self.identity[name]}' for name in different)}. Use another directory."
            )
        values = {name: value if value.ndim else value.item() for name, value in values.items()}
        self.start = Evaluation(**values), about["step"]
        self._found = {failure[0]: tuple(failure) for failure in about["failures"]}


def identity(args: argparse.Namespace, model, pipeline, processor) -> dict[str, str]:
    """Returns what has to be the same for an evaluation to go on: weights, images, preprocessing, batches and head."""
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
