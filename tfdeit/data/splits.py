"""Which images to train on and which to evaluate on: the splits of a data set, or parts of one without splits."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfdeit.data.source import Source
from tfdeit.data.sources import SPLITS, ZipSource, open_source
from tfdeit.presentation.terminal import counted

VALIDATION = ("val", "valid", "validation", "test")  # in order of preference


class Part(Source):
    """Some images of a source.

    Args:
        source: the whole source.
        indices: indices of the images in it, in order.
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
    """Splits a source at random: the same fraction of every class, and at least one image of a class with two.

    Args:
        source: the images.
        fraction: fraction of the images in the second part.
        seed: seed of the choice, which depends only on it and on the labels.

    Returns:
        The first and the second part, each in the order of the source.

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
            "Expected at least two images of a class, one to train on and one to evaluate on. "
            f"Received: no such class in {source!r}; add images, or name others to evaluate on."
        )
    return Part(source, np.flatnonzero(~taken)), Part(source, np.flatnonzero(taken))


def open_splits(path: str | os.PathLike, validation: str | os.PathLike | None = None) -> tuple[Source, Source, str]:
    """Opens the images to train on, and those to evaluate on.

    Args:
        path: anything that `open_source` takes. If it has splits, "train" and the first of `VALIDATION` are used; if
            there is nothing to evaluate on, a fifth of each class is held out.
        validation: the images to evaluate on, if they are elsewhere; also anything that `open_source` takes.

    Returns:
        The two sources, and a sentence that says where they come from.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a path is not a source, or the two have different classes.
    """
    splits = _splits(path)
    if splits and "train" not in splits:
        raise ValueError(f"Expected a split named train in {path}. Received: {sorted(splits)}")
    train = open_source(path, "train" if splits else None)
    place = path if validation is None else validation
    inside = splits if validation is None else _splits(validation)
    held_out = next((name for name in VALIDATION if name in inside), None)
    if held_out or validation is not None:
        test, where = open_source(place, held_out), f" in {Path(place, held_out or '')} to evaluate on"
    else:
        train, test = split_by_class(train)
        missing = f"there is no split for that ({', '.join(VALIDATION)})"
        where = f" to evaluate on: {missing}, so a fifth of each class is taken, the same every time"
    how = f"{counted(len(train), 'image')} in {Path(path, 'train' if splits else '')} to train on, {len(test):,}{where}"
    if train.class_names != test.class_names:
        only = [sorted(set(a.class_names) - set(b.class_names)) for a, b in ((train, test), (test, train))]
        raise ValueError(
            f"Expected the same classes to train and to evaluate on. Received: {only[0]} only to train on, "
            f"{only[1]} only to evaluate on; rename or remove these."
        )
    return train, test, how


def _splits(path: str | os.PathLike) -> set[str]:
    """Returns the splits in a folder or zip; none if its folders are classes."""
    path = Path(path)
    if path.is_dir():
        inside = {entry.name for entry in path.iterdir() if entry.is_dir()}
    elif path.suffix == ".zip" and path.is_file():
        inside = set(ZipSource(path).class_names)
    else:
        return set()
    return inside if inside <= SPLITS else set()
