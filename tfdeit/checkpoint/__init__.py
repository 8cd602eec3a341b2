"""Reads and writes checkpoint files: their bytes (`readers`), names (`rules`), and whole models (`files`)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

DAMAGED = "The file is damaged or in another format: download or save it again."


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model; the message says which file, and what to do."""


class Array(Protocol):
    """A tensor of a checkpoint; `numpy.asarray` reads its values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""

    @property
    def dtype(self) -> np.dtype:
        """Type of its values."""

    def __array__(self) -> np.ndarray: ...


class LazyArray(NamedTuple):
    """An `Array` that is computed each time it is converted."""

    shape: tuple[int, ...]
    dtype: np.dtype
    compute: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.compute(), dtype or self.dtype)


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Joins `names`, sorted, for a message: at most `limit` of them, each cut to 200 characters."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name[:200] for name in names[:limit]) + more
