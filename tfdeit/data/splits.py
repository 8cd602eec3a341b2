"""Which images train and which evaluate: the splits of a data set, or parts of one that has none."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfdeit.data.sources import SPLITS, Source, ZipSource, open_source

VALIDATION = ("val", "valid", "validation", "test")  # in order of preference


class Part(Source):
    """Some images of a source.

    Args:
        source: the source.
        indices: which, in order.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self.source, self.indices = source, np.asarray(indices, "int64")
        super().__init__(source.labels[self.indices], source.class_names)

    def __repr__(self):
        return f"Part({self.source!r}, {len(self.indices)} images)"

    def read(self, index):
        """See `Source`."""
        return self.source.read(int(self.indices[index]))

    def name(self, index):
        """See `Source`."""
        return self.source.name(int(self.indices[index]))


def split_by_class(source: Source, fraction: float = 0.2, seed: int = 0) -> tuple[Part, Part]:
    """Parts a source at random, the same `fraction` of every class, at least one image of those with two.

    Args:
        source: the images.
        fraction: of the second part.
        seed: of the choice, which depends on nothing else but the labels.

    Returns:
        The larger and the smaller part, each in the order of the source.

    Raises:
        ValueError: if no class has two images.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    taken = np.zeros(len(source), bool)
    for label in range(len(source.class_names)):
        own = np.flatnonzero(source.labels == label)
        count = max(round(len(own) * fraction), 1) if len(own) > 1 else 0
        taken[generator.permutation(own)[:count]] = True
    if not taken.any():
        raise ValueError(
            f"Expected at least two images of a class, one to train on and one to evaluate on. Received: {source!r}"
        )
    return Part(source, np.flatnonzero(~taken)), Part(source, np.flatnonzero(taken))


def open_splits(path: str | os.PathLike, validation: str | os.PathLike | None = None) -> tuple[Source, Source, str]:
    """Opens the images to train on, and those to evaluate on.

    Args:
        path: what `open_source` takes. Of a folder or zip of splits, "train" and the first of `VALIDATION` are
            taken; where there is none to evaluate on, a fifth of each class is.
        validation: the images to evaluate on, likewise, if they are elsewhere.

    Returns:
        The two, and what was done in words.

    Raises:
        FileNotFoundError: if there is nothing at a path.
        ValueError: if they are no sources, or have other classes.
    """
    splits = _splits(path)
    if splits and "train" not in splits:
        raise ValueError(f"Expected a split train in {path}. Received: {sorted(splits)}")
    train = open_source(path, "train" if splits else None)
    held_out = next((name for name in VALIDATION if name in splits), None)
    if validation is not None:
        inside = _splits(validation)
        test = open_source(validation, next((name for name in VALIDATION if name in inside), None))
        how = f"{len(train)} images to train on, {len(test)} of {validation} to evaluate on"
    elif held_out:
        test = open_source(path, held_out)
        how = f"{len(train)} images of {path}/train to train on, {len(test)} of {path}/{held_out} to evaluate on"
    else:
        train, test = split_by_class(train)
        how = (
            f"{len(train)} images of {path} to train on, {len(test)} to evaluate on: it has no part for that "
            f"({', '.join(VALIDATION)}), so a fifth of each class is taken, the same every time"
        )
    if train.class_names != test.class_names:
        only = [sorted(set(a.class_names) - set(b.class_names)) for a, b in ((train, test), (test, train))]
        raise ValueError(
            f"Expected the same classes to train and to evaluate on. Received: {only[0]} to train on only, {only[1]} "
            "to evaluate on only"
        )
    return train, test, how


def _splits(path: str | os.PathLike) -> set[str]:
    """Returns the splits in a folder or zip; none, where its folders are classes."""
    path = Path(path)
    if path.is_dir():
        inside = {entry.name for entry in path.iterdir() if entry.is_dir()}
    elif path.suffix == ".zip" and path.is_file():
        inside = set(ZipSource(path).class_names)
    else:
        return set()
    return inside if inside <= SPLITS else set()
