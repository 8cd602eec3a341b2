r"""The forward pass of several models beside other implementations: the whole comparison of docs/benchmarks.md.

    python benchmarks/forward.py [--models NAME ...] [--batch 1 8] [--dtype float32 bfloat16] [--rounds 9]
    KERAS_BACKEND=jax python benchmarks/forward.py --models deit_base_distilled_patch16_224 --batch 1 8 64 256 \
        --dtype bfloat16 --against tfdeit-jit,transformers,transformers-compile    # on a GPU; or torch, tensorflow

Measures as `tfdeit benchmark`, with most of its options, one model after the other; --against is everything that is
installed unless given. Prints one JSON line per model, dtype, batch and contestant: `images_per_second`, and
`ratio`, as a multiple of ours.
"""

import argparse
import contextlib
import json
import os
import sys

from tfdeit.benchmark import CONTESTANTS, absence
from tfdeit.cli import benchmark as benchmark_command

MODELS = [f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmark_command.add_measurement(parser)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of the zoo, or directories")
    args = parser.parse_args()
    what = {"benchmark": "forward", "backend": os.environ.get("KERAS_BACKEND", "tensorflow")}
    for model in args.models:
        for dtype in args.dtype:
            names = args.against or [name for name in CONTESTANTS if absence(name, dtype) is None]
            names = list(dict.fromkeys([benchmark_command.OURS, *names]))

            def failed(name, reason, about=f"{model}, {dtype}"):
                print(f"{about}: {name}: {reason}", file=sys.stderr)

            _, rows = benchmark_command.compare(model, names, args.batch, dtype, args, failed, lambda count: None)
            for row in rows:
                print(json.dumps({**what, "model": model, **row}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
