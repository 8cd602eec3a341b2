"""Requests are merged, and do not affect each other."""

import asyncio
import threading
import time

import numpy as np
import pytest
import running_server  # noqa: F401  skips these tests if a library is missing

from tfdeit.server.batching import Batcher


class Function:
    """Doubles x; records the rows of each call; fails if any is negative; blocks while `gate` is shut."""

    def __init__(self):
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, inputs):
        x = inputs["x"]
        self.calls.append(len(x))
        assert self.gate.wait(20)
        if (x < 0).any():
            raise ValueError(f"negative: {x[x < 0][0]}")
        return {"y": 2 * x}


def run(function, requests, max_batch_size=8, timeout=0.05, workers=1, key="k"):
    """Submits {"x": values} for each at once; returns the answers or errors, and the rows of each batch."""
    started = []

    async def submit_all():
        batcher = Batcher(max_batch_size, timeout, workers, started.append)
        tasks = [
            batcher.submit(key if not callable(key) else key(x), function, {"x": np.array(x)}, len(x)) for x in requests
        ]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.depth == 0
        batcher.close()
        return [answer["y"].tolist() if isinstance(answer, dict) else answer for answer in answers]

    return asyncio.run(submit_all()), started


def test_merged_up_to_the_maximum():
    answers, started = run(Function(), [[i, i + 0.5] for i in range(10)], max_batch_size=8)
    assert answers == [[2 * i, 2 * i + 1] for i in range(10)]
    assert started == [8, 8, 4]


def test_different_sizes():
    requests = [[1.0] * n for n in (3, 0, 3, 4, 1, 20, 2)]
    answers, started = run(Function(), requests, max_batch_size=8)
    assert [len(answer) for answer in answers] == [3, 0, 3, 4, 1, 20, 2]
    assert started == [6, 5, 20, 2]  # the one that is too large is alone


def test_only_the_same_key_is_merged():
    _, started = run(Function(), [[1.0], [2.0], [1.0], [2.0]], key=lambda x: x[0])
    assert started == [2, 2]
    _, started = run(Function(), [[1.0], [2.0]], key=None)
    assert started == [1, 1]


def test_an_error_stays_with_its_request():
    function = Function()
    answers, _ = run(function, [[1.0], [-2.0], [3.0], [-4.0]])
    assert [answers[0], answers[2]] == [[2.0], [6.0]]
    assert [str(answers[1]), str(answers[3])] == ["negative: -2.0", "negative: -4.0"]
    assert function.calls == [4, 1, 1, 1, 1]


def test_outputs_without_rows_are_not_split():
    answers, _ = run(lambda inputs: {"y": inputs["x"].sum(keepdims=True)[0]}, [[1.0], [2.0]])
    assert answers == [1.0, 2.0]


def test_a_lone_request_waits_no_longer_than_the_timeout():
    start = time.perf_counter()
    run(Function(), [[1.0]], timeout=0.2)
    assert 0.2 <= time.perf_counter() - start < 2


def test_batches_grow_while_the_workers_are_busy():
    function = Function()
    started = []

    async def scenario():
        batcher = Batcher(64, 0.0, 1, started.append)
        function.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("k", function, {"x": np.ones(1)}, 1)) for _ in range(1)]
        await asyncio.sleep(0.02)
        tasks += [asyncio.create_task(batcher.submit("k", function, {"x": np.ones(1)}, 1)) for _ in range(30)]
        await asyncio.sleep(0.02)
        assert batcher.depth == 30
        function.gate.set()
        await asyncio.gather(*tasks)
        batcher.close()

    asyncio.run(scenario())
    assert started == [1, 30]


def test_clients_that_left_are_not_computed():
    function = Function()

    async def scenario():
        batcher = Batcher(64, 0.0, 1, lambda rows: None)
        function.gate.clear()
        first = asyncio.create_task(batcher.submit("k", function, {"x": np.ones(1)}, 1))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(batcher.submit("k", function, {"x": np.ones(7)}, 7))
        stays = asyncio.create_task(batcher.submit("k", function, {"x": np.ones(2)}, 2))
        await asyncio.sleep(0.02)
        gone.cancel()
        first.cancel()  # while it is computed
        await asyncio.sleep(0.02)
        function.gate.set()
        assert (await stays)["y"].tolist() == [2, 2]
        batcher.close()

    asyncio.run(scenario())
    assert function.calls == [1, 2]


def test_a_queue_that_stays_full_lets_others_through():
    """The rare request is answered while full batches of the other kind still wait."""
    order = []

    def function(inputs):
        time.sleep(0.005)
        order.append(len(inputs["x"]))
        return inputs

    async def scenario():
        batcher = Batcher(4, 0.0, 1, lambda rows: None)
        full = [asyncio.create_task(batcher.submit("full", function, {"x": np.ones(2)}, 2)) for _ in range(40)]
        rare = asyncio.create_task(batcher.submit("rare", function, {"x": np.ones(1)}, 1))
        more = [asyncio.create_task(batcher.submit("full", function, {"x": np.ones(2)}, 2)) for _ in range(40)]
        await asyncio.gather(*full, rare, *more)
        batcher.close()

    asyncio.run(scenario())
    assert 0 < order.index(1) < len(order) - 15


@pytest.mark.parametrize("workers", [1, 3])
def test_many_at_random(workers):
    rng = np.random.default_rng(0)
    requests = [np.round(rng.uniform(-0.05, 1, rng.integers(0, 6)), 3).tolist() for _ in range(400)]
    answers, started = run(Function(), requests, max_batch_size=16, timeout=0.001, workers=workers)
    for x, answer in zip(requests, answers, strict=True):
        if min(x, default=0) < 0:
            assert isinstance(answer, ValueError)
        else:
            assert answer == [2 * value for value in x]
    assert max(started) <= 16
    assert len(started) < 150
