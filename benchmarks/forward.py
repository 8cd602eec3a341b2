"""Time of the forward pass against transformers' PyTorch models with fused attention.

    python benchmarks/forward.py [--models tiny small base] [--batch 8] [--dtype float32] [--rounds 9]

Prints one JSON line per model: median milliseconds per batch over interleaved rounds, and how many times as fast as
transformers ours is. Random weights; ours is called as `model.predict_on_batch` calls it, without and with jit.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np
import torch
import transformers

import tfdeit

HEADS = {"tiny": 3, "small": 6, "base": 12}


def contestants(heads, batch, dtype):
    size = {"hidden_size": 64 * heads, "num_attention_heads": heads, "intermediate_size": 256 * heads}
    pixels = np.random.default_rng(0).normal(size=(batch, 224, 224, 3)).astype("float32")
    model_class = transformers.DeiTForImageClassificationWithTeacher
    theirs = model_class(transformers.DeiTConfig(**size, num_labels=1000)).eval().to(getattr(torch, dtype))
    their_pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(getattr(torch, dtype))

    def run_theirs():
        with torch.inference_mode():
            theirs(their_pixels)

    runs = {"transformers": run_theirs}
    for jit in (False, True):
        config = tfdeit.DeiTConfig(**size, num_labels=1000)
        ours = tfdeit.TFDeiTForImageClassificationWithTeacher(config, dtype=dtype)
        ours.compile(jit_compile=jit)
        runs["tfdeit_jit" if jit else "tfdeit"] = lambda ours=ours: ours.predict_on_batch(pixels)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    for name in args.models:
        runs = contestants(HEADS[name], args.batch, args.dtype)
        seconds = {run: [] for run in runs}
        for turn in range(args.rounds + 2):
            for run, call in runs.items():
                start = time.perf_counter()
                call()
                if turn > 1:  # the first ones compile
                    seconds[run].append(time.perf_counter() - start)
        medians = {run: statistics.median(values) for run, values in seconds.items()}
        line = {"benchmark": "forward", "model": f"deit_{name}_distilled", "batch": args.batch, "dtype": args.dtype}
        line |= {f"{run}_ms": round(1e3 * median, 1) for run, median in medians.items()}
        line |= {f"{run}_speedup": round(medians["transformers"] / medians[run], 2) for run in ("tfdeit", "tfdeit_jit")}
        print(json.dumps({**line, "backend": keras.backend.backend()}), flush=True)


if __name__ == "__main__":
    main()
