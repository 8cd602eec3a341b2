"""The process of one contestant, which loads and measures it on request. `rounds` talks to it.

Each line on stdin is a request, a JSON object; each line on stdout is the answer to one.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

BEGIN = time.perf_counter()
LEAST = 3  # calls in a turn at least


def main():
    """Answers requests until stdin ends; the answer to one that fails is the reason."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print goes to stderr
        work = Work()
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(work, request.pop("action"))(**request)
            except Exception as error:  # from any library; the parent continues without this contestant
                answer = {"error": " ".join(str(error).split()) or type(error).__name__}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Work:
    """The actions that can be requested."""

    def __init__(self):
        self.contest = None

    def prepare(self, **options) -> dict:
        """See `prepare.prepare`."""
        from tfdeit.benchmark.prepare import prepare

        return prepare(**options)

    def load(self, **options) -> dict:
        """Loads a contestant; see `Contest`."""
        self.contest = Contest(**options)
        return {"load_seconds": time.perf_counter() - BEGIN}

    def measure(self, method: str, **options) -> dict:
        """Calls a method of the loaded contestant."""
        return getattr(self.contest, method)(**options)

    def matmul(self, dtype: str, seconds: float) -> dict:
        """Returns the floating-point operations per second of a large matrix product, the best in about `seconds`."""
        from tfdeit.benchmark.contestants import matmul

        product, operations = matmul(dtype)
        product()
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        return {"flops": operations / best}


class Contest:
    """A loaded contestant."""

    def __init__(self, contestant: str, folder: str, dtype: str):
        from tfdeit.benchmark import contestants

        self.spec = contestants.Spec(folder, dtype)
        self.make = contestants.make(contestant, self.spec)
        self.calls: dict[int, list[Callable]] = {}
        self.base: int | None = None  # memory with one image
        self.peak = 0

    def first(self, batch: int) -> dict:
        """Runs a batch for the first time, which compiles; in parts, if it does not fit into memory.

        Returns:
            `part`, the number of images in a part; `image_bytes`, the memory for each image after the first, None if
            unknown; and `logits` of the first two images.
        """
        import numpy as np

        from tfdeit.network.memory import fitting_batch, run_split

        config = self.spec.config
        shape = (*config.image_hw, config.num_channels)
        pixels = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
        pixels = np.concatenate([pixels] + [pixels[:, :: (-1) ** i] * (1 - i / batch) for i in range(1, batch)])
        self.make(pixels[:1])()
        if self.base is None:
            self.base = memory("VmRSS")
        most = fitting_batch(config, batch, self.spec.dtype)
        results, part = run_split(lambda part: self.make(part)(), pixels, most)
        self.calls[batch] = [self.make(pixels[start : start + part]) for start in range(0, batch, part)]
        self.peak = max(self.peak, memory("VmHWM") or 0)
        known = reset_peak() and part > 1
        self.turn(batch, 0)  # now without compiling
        peak = memory("VmHWM")
        grown = (peak - self.base) // (part - 1) if known and peak and self.base else None
        logits = np.concatenate(results)[:2].astype("float64").tolist()
        return {"part": part, "image_bytes": grown, "logits": logits}

    def turn(self, batch: int, seconds: float) -> dict:
        """Returns the median seconds per batch of at least `LEAST` calls in about `seconds`, after a warm-up call."""
        times: list[float] = []
        begin = None
        while begin is None or len(times) < LEAST or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            for call in self.calls[batch]:
                call()
            if begin is None:
                begin = time.perf_counter()
            else:
                times.append(time.perf_counter() - start)
        return {"seconds": statistics.median(times)}

    def end(self) -> dict:
        """Returns the peak memory of this process in bytes, None if unknown."""
        return {"peak_bytes": max(memory("VmHWM") or 0, self.peak) or None}


def memory(field: str) -> int | None:
    """Returns the memory of this process in bytes, by Linux's name (VmRSS now, VmHWM at its peak); None if unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def reset_peak() -> bool:
    """Makes Linux measure VmHWM from now on; returns whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
