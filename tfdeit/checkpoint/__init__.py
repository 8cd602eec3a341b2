"""Checkpoint files in and out: bytes (`readers`), names (`rules`), and models (`files`)."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

DAMAGED = "The file is damaged or of another format: download or save it again."


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model; the message names the file and what to do."""


class Array(Protocol):
    """A tensor of a checkpoint; `numpy.asarray` reads its values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> np.dtype:
        """Type of its values."""

    def __array__(self) -> np.ndarray: ...


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Joins `names`, sorted, for a message: at most `limit` of them, each cut to 200 characters."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name[:200] for name in names[:limit]) + more
