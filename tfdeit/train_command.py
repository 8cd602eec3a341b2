"""What `tfdeit train` does. Heavy imports are inside the function: the arguments are parsed without them."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from tfdeit.commands import silenced_stderr


def run_train(args: argparse.Namespace) -> int:
    """Trains, or goes on training, and says where the model is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced_stderr():
        import tensorflow as tf

        from tfdeit.training.recipes import find_recipe
        from tfdeit.training.run import Run, train
        from tfdeit.training.trainer import Diverged

    out = Path(args.out)
    try:
        arguments = {name: getattr(args, name) for name in Run._fields}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        recipe_name = args.recipe
        if args.resume and (out / "recipe.toml").is_file():
            arguments = json.loads((out / "arguments.json").read_text(encoding="utf-8")) | arguments
            recipe_name = recipe_name or out / "recipe.toml"
        missing = [f"--{name}" for name in ("data", "model") if name not in arguments]
        missing += [] if recipe_name else ["--recipe"]
        if missing:
            raise ValueError(f"Expected {', '.join(missing)}; only a run that is resumed knows its own")
        recipe = find_recipe(recipe_name).override(*args.overrides)
        finished = train(recipe, Run(**arguments), out, args.resume, say)
    except (OSError, ValueError, Diverged) as error:
        print(f"tfdeit train: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except tf.errors.InvalidArgumentError as error:  # what the input pipeline raised is in the text only
        unreadable = re.search(r"ImageError: (.*)", error.message)
        if not unreadable:
            raise
        print(f"tfdeit train: error: {unreadable[1]}", file=sys.stderr)
        return 2
    except (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.UnavailableError) as error:
        print(f"tfdeit train: error: a worker is gone; restart all with --resume ({error.message})", file=sys.stderr)
        return 1
    if finished:
        print(f"the model is in {out / 'model'}")
    else:
        print(f"stopped; go on with `tfdeit train --out {out} --resume`")
    return 0


def say(text: str):
    """Prints a line of what is decided on the way."""
    print(f"tfdeit train: {text}", file=sys.stderr, flush=True)
