"""Dynamic batching: requests that arrive at about the same time are executed together."""

import asyncio
import contextlib
import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Item:
    """A request in the queue: `rows` is the common first dimension of its inputs, `due` a time of the event loop."""

    run: Callable[[Arrays], Arrays]
    inputs: Arrays
    rows: int
    due: float
    answer: asyncio.Future


class Batcher:
    """Merges requests with the same key along the first dimension.

    A batch starts when a worker is idle and the batch is full or its oldest request has waited long enough. So batches
    grow while all workers are busy, and a lone request waits for `timeout` at most.

    Args:
        max_batch_size: the largest number of rows in a batch. A larger request is executed by itself.
        timeout: seconds that a request waits for others.
        workers: how many batches are executed at the same time.
        observe: called with the number of rows of each batch that starts.
    """

    def __init__(self, max_batch_size: int, timeout: float, workers: int, observe: Callable[[int], None]):
        self._max_batch_size = max_batch_size
        self._timeout = timeout
        self._idle = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="batch")
        self._queues: dict[Hashable, deque[Item]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._observe = observe

    async def submit(self, key: Hashable, run: Callable[[Arrays], Arrays], inputs: Arrays, rows: int) -> Arrays:
        """Returns the outputs for these inputs.

        Args:
            key: equal for all requests of a batch; None for a request that cannot be merged.
            run: a function from inputs to outputs, called in a worker's thread.
            inputs: arrays of `rows` rows each.
            rows: the number of rows.

        Raises:
            Exception: what `run` raises for these inputs alone.
        """
        loop = asyncio.get_running_loop()
        item = Item(run, inputs, rows, loop.time() + (0 if key is None else self._timeout), loop.create_future())
        self._queues.setdefault(item if key is None else key, deque()).append(item)
        self._dispatch()
        return await item.answer

    @property
    def depth(self) -> int:
        """The number of requests waiting."""
        return sum(map(len, self._queues.values()))

    def close(self):
        """Ends the workers as soon as they are idle."""
        self._pool.shutdown()

    def _dispatch(self):
        """Starts the batches that are ready, while workers are idle, and sets the timer for the next one."""
        loop = asyncio.get_running_loop()
        while self._idle and self._queues:
            ready = [key for key in self._queues if self._ready_at(key) <= loop.time()]
            if not ready:
                break
            # The queue with the oldest request, not a full one: while that stays full, the others would wait forever.
            key = min(ready, key=lambda key: self._queues[key][0].due)
            if batch := self._take(key):
                self._idle -= 1
                self._observe(sum(item.rows for item in batch))
                done = loop.run_in_executor(self._pool, execute, batch)
                done.add_done_callback(functools.partial(self._deliver, batch))
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._idle and self._queues:
            self._timer = loop.call_at(min(map(self._ready_at, self._queues)), self._dispatch)

    def _ready_at(self, key: Hashable) -> float:
        queue = self._queues[key]
        return 0.0 if sum(item.rows for item in queue) >= self._max_batch_size else queue[0].due

    def _take(self, key: Hashable) -> list[Item]:
        """Removes a batch from a queue, and drops the requests whose clients have disconnected."""
        queue, rows = self._queues[key], 0
        batch: list[Item] = []
        while queue and (not batch or rows + queue[0].rows <= self._max_batch_size):
            item = queue.popleft()
            if not item.answer.done():
                batch.append(item)
                rows += item.rows
        if not queue:
            del self._queues[key]
        return batch

    def _deliver(self, batch: list[Item], done: asyncio.Future):
        self._idle += 1
        for item, answer in zip(batch, done.result(), strict=True):
            if item.answer.done():  # the client has disconnected
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result(answer)
        self._dispatch()


def execute(batch: list[Item]) -> Sequence[Arrays | Exception]:
    """Returns the outputs or the error of each request.

    If a batch fails, its requests are executed one by one, so that only those at fault fail, each with its own error.
    """
    if len(batch) > 1:
        with contextlib.suppress(Exception):  # raised again below, for the request that causes it
            return merged(batch)
    return [alone(item) for item in batch]


def merged(batch: list[Item]) -> list[Arrays]:
    """Executes all requests together; returns the outputs of each."""
    inputs = {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
    outputs = batch[0].run(inputs)
    ends = np.cumsum([item.rows for item in batch])
    if any(value.shape[:1] != (ends[-1],) for value in outputs.values()):
        raise ValueError("the outputs do not have one row for each row of the inputs")
    parts = {name: np.split(value, ends[:-1]) for name, value in outputs.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(batch))]


def alone(item: Item) -> Arrays | Exception:
    """Executes one request by itself; returns its outputs or its error."""
    try:
        return item.run(item.inputs)
    except Exception as error:
        return error
