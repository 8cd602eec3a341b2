"""What the command line says of itself: help texts, their examples, and advice on what was meant."""

import dataclasses
import re
import shlex
import subprocess
import sys

import pytest

from tfdeit.cli.main import COMMANDS, build_parser, main, module_of
from tfdeit.config import DeiTConfig
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.recipes import RECIPES


def commands():
    return next(action.choices for action in build_parser()._actions if action.dest == "command")


@pytest.mark.parametrize("module", ["tfdeit", "tfdeit.cli.main"])
def test_the_module_is_the_command(module):
    code = "import runpy, sys; sys.argv[1:] = ['list', 'deit_tiny*']; runpy.run_module('tfdeit', run_name='__main__')"
    argv = ["-m", "tfdeit", "list", "deit_tiny*"] if module == "tfdeit" else ["-c", code]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deit_tiny_patch16_224" in done.stdout


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0
    bare = capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out == bare
    assert all(f"\n    {name} " in bare or f"\n    {name}\n" in bare for name in COMMANDS)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_ends_with_examples_that_parse(name):
    parser = build_parser()
    text = (parser if name is None else commands()[name]).format_help()
    examples = text.rpartition("\nexamples:\n")[2].strip("\n").splitlines()
    assert 2 <= len(examples) <= 3
    for line in examples:
        assert line.startswith("  ")
        found = [part for part in re.split(r"\s(?:\||&&)\s|\$\(", line) if part.strip().startswith("tfdeit ")]
        assert found
        for part in found:
            words = shlex.split(re.split(r"\s>\s|\s#|\)\"", part)[0])
            args = parser.parse_args(words[1:])
            assert name in (None, args.command) or len(found) > 1
            if args.command == "train" and args.recipe:
                RECIPES[args.recipe].override(*args.overrides)


def test_the_help_of_train_lists_the_fields_with_their_defaults():
    text = commands()["train"].format_help()
    for field in dataclasses.fields(TrainRecipe):
        shown = re.search(rf"^  {field.name}=(\S.*?)  +\S", text, re.MULTILINE)
        assert shown, field.name
        assert TrainRecipe().override(f"{field.name}={shown[1].strip()}") == TrainRecipe(), field.name


@pytest.mark.parametrize(
    ("argv", "advice"),
    [
        (["train", "--out", "run", "--epochs", "3"], "epochs is a field: write --set epochs=3."),
        (["train", "--out", "run", "--batch-size=8"], "batch_size is a field: write --set batch_size=8."),
        (["train", "--out", "run", "--lr"], "lr is a field: write --set lr=VALUE."),
        (["port", "a", "-o", "b", "--num_labels", "10"], "num_labels is a field: write --set num_labels=10."),
        (["train", "--out", "run", "--recipee", "x"], "Did you mean '--recipe'?"),
        (["predict", "a.jpg", "--zoom", "3"], "`tfdeit predict --help` lists the arguments."),
    ],
)
def test_options_that_are_fields_are_explained(argv, advice, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[1] == f"  {advice}"


def test_fields_are_completed():
    for name, kind in (("train", TrainRecipe), ("port", DeiTConfig)):
        (argument,) = (action for action in commands()[name]._actions if action.dest == "overrides")
        assert argument.completer("") == [f"{field.name}=" for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_one_module_and_one_row(name):
    module = module_of(name)
    assert {"DESCRIPTION", "EXAMPLES", "add_arguments", "run"} <= vars(module).keys()
