"""Measures contestants against each other, in turns.

Each contestant has a process of its own: in a shared one, the thread pools of TensorFlow, PyTorch and OpenVINO would
compete for the processors, peak memory could not be told apart, and a crash would end all measurements. Every
contestant has one turn per round, so that a machine that slows down slows all of them. During a turn the others are
paused (SIGSTOP), as the threads of OpenMP, ONNX Runtime and TensorFlow keep spinning for a while after their work.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfdeit.benchmark import absence

CAN_STOP = hasattr(signal, "SIGSTOP")


class WorkerError(RuntimeError):
    """The process of a contestant failed."""


class Worker:
    """The process of a contestant, paused between requests."""

    def __init__(self):
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfdeit.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def ask(self, action: str, **options) -> dict:
        """Sends a request, and returns the answer.

        Raises:
            WorkerError: with the reason if the request fails, or with the last line of stderr if the process ends.
        """
        with contextlib.suppress(BrokenPipeError):
            if CAN_STOP:
                self._process.send_signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps({"action": action, **options}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            said = [line.strip() for line in self._errors if line.strip()]
            reason = said[-1] if said and status > 0 else f"ended with status {status}"
            raise WorkerError("killed, perhaps for lack of memory" if status == -9 else reason)
        if CAN_STOP:
            self._process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self):
        """Ends the process."""
        self._process.terminate()
        if CAN_STOP:
            self._process.send_signal(signal.SIGCONT)
        self._process.communicate()
        self._errors.close()


class Plan(NamedTuple):
    """What is measured.

    Attributes:
        contestants: names in `tfdeit.benchmark.CONTESTANTS`; ratios are to the first.
        folder: the directory that `prepare` filled.
        dtype: the dtype that all compute in.
        macs: multiply-accumulate operations per image.
        batches: batch sizes.
        rounds: number of turns for each contestant and batch size.
        seconds: approximate length of a turn.
    """

    contestants: Sequence[str]
    folder: str
    dtype: str
    macs: int
    batches: Sequence[int]
    rounds: int
    seconds: float


@contextlib.contextmanager
def workers() -> Iterator[Callable[[], Worker]]:
    """Yields a function that starts workers, and ends all of them afterwards."""
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker())
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.close()


def measure(plan: Plan, failed: Callable[[str, str], None], advance: Callable[[int], None]) -> list[dict]:
    """Measures all contestants that can take part.

    Args:
        plan: what to measure.
        failed: called with the name of each contestant that cannot take part, and why.
        advance: called with the number of turns just taken.

    Returns:
        One row per contestant and batch size. `images_per_second` is the median over rounds; `ratio`, to the first
        contestant, is the median of the ratios within rounds; `peak_share` is relative to the fastest matrix product;
        `difference` is the largest difference from the first contestant in the logits of two images. `ratio` and
        `difference` are None if the first contestant failed.
    """
    with workers() as start:
        loaded = _load(plan, start, failed)
        rows = {(name, batch): {"contestant": name, "batch": batch} for batch in plan.batches for name in loaded}

        def ask(name, method, **options):
            """Asks a contestant; one that fails drops out, and None is returned for it from then on."""
            if name not in loaded:
                return None
            try:
                return loaded[name][0].ask("measure", method=method, **options)
            except WorkerError as error:
                failed(name, str(error))
                del loaded[name]
                return None

        for (name, batch), row in rows.items():
            row.update(ask(name, "first", batch=batch) or {})
        multiplier, peak = start(), 0.0
        times: dict[tuple, list[float]] = {key: [] for key in rows}
        for _ in range(plan.rounds):
            peak = max(peak, multiplier.ask("matmul", dtype=plan.dtype, seconds=plan.seconds / 2)["flops"])
            for (name, batch), seconds in times.items():
                if answer := ask(name, "turn", batch=batch, seconds=plan.seconds):
                    seconds.append(answer["seconds"])
                advance(1)
        ends = {name: ask(name, "end") for name in list(loaded)}
    rows = {key: row for key, row in rows.items() if key[0] in loaded}
    for (name, _), row in rows.items():
        row |= {**ends[name], "load_seconds": loaded[name][1]}
    return _figures(plan, rows, times, peak)


def _figures(plan: Plan, rows: dict[tuple, dict], times: dict[tuple, list[float]], peak: float) -> list[dict]:
    """Returns the rows of `measure` with the figures that follow from the seconds per batch in each round."""
    logits = {key: np.array(row.pop("logits")) for key, row in rows.items()}
    for (name, batch), row in rows.items():
        reference, own = (plan.contestants[0], batch), times[name, batch]
        rate = batch / statistics.median(own)
        row |= {"milliseconds": 1e3 * statistics.median(own), "images_per_second": rate}
        row |= {"gflops": 2e-9 * plan.macs * rate, "peak_share": 2 * plan.macs * rate / peak}
        row |= {"dtype": plan.dtype, "peak_gflops": 1e-9 * peak}
        part, row["ratio"], row["difference"] = row.pop("part"), None, None
        row["split"] = part if part < batch else None
        if reference in rows:
            row["ratio"] = statistics.median(a / b for a, b in zip(times[reference], own, strict=True))
            row["difference"] = float(np.abs(logits[name, batch] - logits[reference]).max())
    return list(rows.values())


def _load(plan, start, failed):
    loaded = {}
    for name in plan.contestants:
        try:
            if reason := absence(name, plan.dtype):
                raise WorkerError(reason)
            worker = start()
            answer = worker.ask("load", contestant=name, folder=plan.folder, dtype=plan.dtype)
            loaded[name] = worker, answer["load_seconds"]
        except WorkerError as error:
            failed(name, str(error))
    return loaded
