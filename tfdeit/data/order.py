"""The order of the samples: shuffling, repeated augmentation and sharding, computed from (seed, epoch)."""

import dataclasses

import numpy as np

_MASK = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of the samples in every epoch; the same on every machine.

    All workers together see each sample once per epoch. With repeats, as in DeiT's RASampler, each shuffled sample
    comes `repeats` times in a row, the workers take turns (so that they see different augmentations of it), and the
    epoch has as many samples as without repeats, rounded down to a multiple of 256 if there are at least 256.

    Args:
        seed: seed of the shuffling and of the augmentations; None keeps the order of the source.
        repeats: how often a sample comes in a row (repeated augmentation); DeiT trains with 3.
        worker: number of this worker, from 0.
        workers: number of workers.

    Raises:
        ValueError: if `worker` is not in [0, workers), or `repeats` is below 1.
    """

    seed: int | None = 0
    repeats: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self):
        if self.repeats < 1 or not 0 <= self.worker < self.workers:
            raise ValueError(f"Expected repeats to be at least 1, and worker in [0, workers). Received: {self}")

    def epoch(self, count: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the samples of one epoch for this worker.

        Args:
            count: number of samples in the source.
            epoch: number of the epoch, from 0.

        Returns:
            The index of each sample in the source, and its repetition: (n,) int64 and (n,) int64.
        """
        if self.seed is None:
            samples = np.arange(count)
        else:
            samples = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(count)
        if self.repeats == 1:
            mine = samples[self.worker :: self.workers]
            return mine, np.zeros_like(mine)
        places = np.arange(self.length(count)) * self.workers + self.worker
        return samples[places // self.repeats], places % self.repeats

    def length(self, count: int) -> int:
        """Returns how many samples this worker sees in an epoch of a source with `count`."""
        if self.repeats == 1:
            return len(range(self.worker, count, self.workers))
        return (count // 256 * 256 if count >= 256 else count) // self.workers

    def steps(self, count: int, batch_size: int) -> int:
        """Returns how many full batches every worker has in an epoch."""
        last = dataclasses.replace(self, worker=self.workers - 1)
        return last.length(count) // batch_size

    def sample_seed(self, epoch: int, sample: int, repetition: int) -> np.ndarray:
        """Returns the seed for augmenting one sample, (2,) int32; it does not depend on worker, batch or thread."""
        state = 0
        for value in (self.seed or 0, epoch, sample, repetition):
            state = _splitmix(state ^ (value & _MASK))
        return np.array([state & 0x7FFFFFFF, state >> 33], "int32")


def _splitmix(state):
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input affects every bit of the output."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
