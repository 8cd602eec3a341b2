"""The interface of a source of labelled images: labels and names are known, and any image can be read at random."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """One image as it is stored."""

    data: bytes  # content of the image file
    label: int
    name: str


class Source:
    """Labelled images, which several threads may read at once.

    Args:
        labels: (N,) class numbers.
        class_names: names of all classes.

    Attributes:
        labels: (N,) int32.
        class_names: list of str.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, class_names: Sequence[str]):
        self.labels = np.asarray(labels, "int32").reshape(-1)
        self.class_names = list(class_names)
        if not len(self.labels):
            raise ValueError(f"Expected at least one image and its label. Received: none for {self!r}; check its data")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected an index below {len(self)}. Received: {index}")
        index %= len(self)
        return Sample(self.read(index), int(self.labels[index]), self.name(index))

    def read(self, index: int) -> bytes:
        """Returns the content of an image file."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Returns what messages call an image: its path, if it has one."""
        raise NotImplementedError
