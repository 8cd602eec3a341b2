"""The command `train`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path

from tfdeit.augmentation.recipe import Recipe
from tfdeit.cli.arguments import Parser, add_settings, completed, model_names
from tfdeit.presentation.terminal import Failure, note, result, silenced_stderr
from tfdeit.training.recipe import TrainRecipe, spelled
from tfdeit.training.recipes import RECIPES, find_recipe


def fields() -> str:
    """Returns a table of the recipe's fields: name, default, and what its docstring says."""
    text = f"{inspect.getdoc(Recipe)}\n{inspect.getdoc(TrainRecipe)}"
    about = {name: " ".join(words.split()) for name, words in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)}
    rows = [(f"{field.name}={spelled(field.default)}", about[field.name]) for field in dataclasses.fields(TrainRecipe)]
    return "\n".join(
        textwrap.fill(words, 100, initial_indent=f"  {name:34} ", subsequent_indent=" " * 37) for name, words in rows
    )


DESCRIPTION = (
    "Trains a model on labelled images, by a recipe. RUN gets checkpoints, history.csv, curves.png, TensorBoard's "
    "logs, and at the end the model, as a directory that the other commands take. SIGTERM and Ctrl-C save and stop.\n\n"
    f"Recipes: {', '.join(RECIPES)}."
)
EXAMPLES = """
tfdeit train --recipe finetune --data photos --model deit_small_patch16_224 --out run
tfdeit train --recipe finetune --data photos --model deit_micro_cifar10 --out run --set epochs=10 --set lr=1e-4
tfdeit train --out run --resume
"""
FIELDS = f"Fields of a recipe, with their defaults (--set FIELD=VALUE):\n{fields()}"


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `train`."""
    recipe = parser.add_argument("--recipe", metavar="R", help="name of a recipe, or a file such as RUN/recipe.toml")
    completed(recipe, lambda: RECIPES)
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="folder of train/CLASS/ and val/CLASS/, or of CLASS/ (a fifth is kept to evaluate on); zip, list or "
        "packed records of the same",
    )
    parser.add_argument("--val", dest="validation", metavar="DATA", help="images to evaluate on, if they are elsewhere")
    model = parser.add_argument(
        "--model", metavar="NAME", help="directory, hub id, or name: where to start from, or its architecture"
    )
    completed(model, model_names)
    parser.add_argument("--out", required=True, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "--teacher", metavar="T", help=".keras file, SavedModel, name in keras.applications, or what --model takes"
    )
    parser.add_argument(
        "--teacher-pixels",
        choices=("0..255", "0..1", "-1..1", "imagenet"),
        help="what a .keras file or SavedModel takes (0..255)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in RUN, if there is one")
    add_settings(
        parser,
        str,
        [field.name for field in dataclasses.fields(TrainRecipe)],
        "a field of the recipe, such as epochs=10, lr=1e-4, batch_size=64, distillation=hard; repeatable",
    )
    parser.epilog = f"{FIELDS}\n\n{parser.epilog}"


def run(args: argparse.Namespace) -> int:
    """Trains, or goes on training, and says where the model is."""
    with silenced_stderr():
        import tensorflow as tf

        from tfdeit.training.run import Run, train
        from tfdeit.training.trainer import Diverged

        tf.config.list_physical_devices()  # the search for a GPU is logged

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
        finished = train(recipe, Run(**arguments), out, args.resume, note)
    except Diverged as error:
        raise Failure(str(error)) from error
    except tf.errors.InvalidArgumentError as error:  # what the input pipeline raised is in the text only
        unreadable = re.search(r"ImageError: (.*)", error.message)
        if not unreadable:
            raise
        raise ValueError(unreadable[1]) from error
    except (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.UnavailableError) as error:
        raise Failure(f"a worker is gone; restart all with --resume ({error.message})") from error
    model = str(out / "model")
    text = f"the model is in {model}" if finished else f"stopped; go on with `tfdeit train --out {out} --resume`"
    result({"finished": finished, "model": model if finished else None}, text)
    return 0
