"""Time and memory of loading deit_base_patch16_224 (a ViT of 86M parameters) from safetensors, against peers.

    python benchmarks/loading.py [--rounds 7]

Prints one JSON line per contestant: median seconds over interleaved rounds, and the ratio of tfdeit's to it:

- read_and_build: reads the bytes of the file and builds the model, with random weights
- transformers: PyTorch's model, whose weights stay in the mapped file until they are used
- transformers_in_memory: the same, and copies the weights
- keras_hub: `ViTImageClassifier.from_preset` of the same directory; left out, with a line, if it is not installed

and one line of the memory: by how much the peak of a process grows, in bytes of the weights (Linux only).

All run in this process, after a round that is not counted: a new process takes seconds to import its framework, and
the first use of each compiles and reads the file from disk, which is none of loading.
"""

import argparse
import gc
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import transformers

from tfdeit import TFViTForImageClassification, ViTConfig

PEAK = """if True:
    import sys
    from pathlib import Path
    import tfdeit

    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    small = tfdeit.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    tfdeit.TFViTForImageClassification(small).save_pretrained(sys.argv[2])
    tfdeit.TFViTForImageClassification.from_pretrained(sys.argv[2])  # what the libraries need when they start
    before = peak()
    model = tfdeit.TFViTForImageClassification.from_pretrained(sys.argv[1])
    print(peak() - before, sum(weight.nbytes for weight in model.get_weights()))
"""


def contestants(directory, config):
    def read_and_build():
        (directory / "model.safetensors").read_bytes()
        return TFViTForImageClassification(config)

    def transformers_in_memory():
        model = transformers.ViTForImageClassification.from_pretrained(directory)
        return [parameter.clone() for parameter in model.parameters()]

    runs = {
        "tfdeit": lambda: TFViTForImageClassification.from_pretrained(directory),
        "read_and_build": read_and_build,
        "transformers": lambda: transformers.ViTForImageClassification.from_pretrained(directory),
        "transformers_in_memory": transformers_in_memory,
    }
    try:
        models = importlib.import_module("keras_hub").models
    except ImportError as error:
        print(json.dumps({"benchmark": "loading", "contestant": "keras_hub", "skipped": str(error)}), flush=True)
    else:
        runs["keras_hub"] = lambda: models.ViTImageClassifier.from_preset(str(directory))
    return runs


def measure(runs, rounds):
    """Median seconds of each run, taking turns so that a slow spell of the machine hits all alike."""
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            gc.collect()  # the model before has cycles
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    transformers.utils.logging.disable_progress_bar()
    config = ViTConfig(num_labels=1000)
    with tempfile.TemporaryDirectory() as name:
        TFViTForImageClassification(config).save_pretrained(name)
        medians = measure(contestants(Path(name), config), rounds)
        for contestant, median in medians.items():
            line = {"benchmark": "loading", "contestant": contestant, "seconds": round(median, 3)}
            print(json.dumps(line | {"ratio_of_tfdeit": round(medians["tfdeit"] / median, 2)}), flush=True)
        if sys.platform == "linux":
            done = subprocess.run(
                [sys.executable, "-c", PEAK, name, f"{name}/small"], capture_output=True, text=True, check=True
            )
            growth, weights = map(int, done.stdout.split())
            line = {
                "benchmark": "loading",
                "weights_mb": round(weights / 1e6),
                "peak_ratio": round(growth / weights, 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
