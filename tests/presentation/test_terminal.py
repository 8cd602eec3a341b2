"""What all commands have in common: --quiet, --json, errors, hints, interrupts, tables, pipes and completion."""

import array
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from PIL import Image

from tfdeit import zoo
from tfdeit.cli.arguments import Parser
from tfdeit.cli.main import build_parser, main
from tfdeit.presentation import terminal
from tfdeit.presentation.hints import did_you_mean
from tfdeit.training.recipes import RECIPES
from tfdeit.zoo import list_models

TFDEIT = [sys.executable, "-m", "tfdeit"]
ARGUMENTS = {  # the fewest that each command takes
    "predict": ["photo.png"],
    "list": [],
    "info": ["deit_tiny_patch16_224"],
    "port": ["deit_micro_cifar10", "-o", "ported"],
    "pack": ["data", "-o", "packed"],
    "augment": ["photo.png", "-o", "grid.png"],
    "train": ["--out", "run", "--recipe", "finetune", "--data", "data", "--model", "deit_micro_cifar10"],
    "evaluate": ["--data", "data"],
    "benchmark": [],
    "attention": ["photo.png", "-o", "map.png"],
    "export": ["-o", "exported"],
    "serve": ["exported"],
    "completion": ["bash"],
}
FEWER = {"train": ["--set", "epochs=1", "--set", "batch_size=4"], "augment": ["--size", "32"]}  # for a test


def commands() -> dict[str, Parser]:
    parser = build_parser()
    return next(action.choices for action in parser._actions if action.dest == "command")


def run(*args, status=0, **options):
    options = {"capture_output": True, "text": True, "timeout": 500, **options}
    done = subprocess.run([*TFDEIT, *map(str, args)], **options)
    assert done.returncode == status, done.stderr
    return done


def test_every_command_has_the_manners_before_and_behind_its_name():
    assert commands().keys() == ARGUMENTS.keys()
    parser = build_parser()
    for command, arguments in ARGUMENTS.items():
        for flags in (["--json"], ["-q"], ["--debug"], ["--quiet", "--json", "--debug"]):
            wanted = {
                "json": "--json" in flags,
                "quiet": bool({"-q", "--quiet"} & {*flags}),
                "debug": "--debug" in flags,
            }
            for argv in ([*flags, command, *arguments], [command, *arguments, *flags], [command, *flags, *arguments]):
                args = vars(parser.parse_args(argv))
                assert wanted.items() <= args.items(), argv
        args = parser.parse_args([command, *arguments])
        assert (args.json, args.quiet, args.debug) == (False, False, False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directory with a photo, and a folder of two classes."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    names = ["photo.png", *(f"data/{label}/{n}.png" for label in ("cat", "dog") for n in range(5))]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), "uint8")).save(folder / name)
    return folder


def check_manners(command: str, place):
    argv = [command, *ARGUMENTS[command], *FEWER.get(command, [])]
    done = run("--json", "--quiet", *argv, cwd=place)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all(isinstance(line, dict) for line in lines)
    for name in ("ported", "packed", "run"):
        shutil.rmtree(place / name, ignore_errors=True)
    done = run(*argv, cwd=place)
    assert "\x1b" not in done.stdout + done.stderr
    notes = [line for line in done.stderr.splitlines() if not line.startswith(f"tfdeit {command}: ")]
    assert notes == []  # nothing of TensorFlow, nor of CUDA
    return lines


@pytest.mark.parametrize("command", ["list", "info", "completion"])
def test_results_and_notes_of_light_commands(command, place):
    check_manners(command, place)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *("predict", "evaluate"),
        *(
            pytest.param(command, marks=pytest.mark.heavy)
            for command in ("attention", "augment", "pack", "port", "train")
        ),
    ],
)
def test_results_and_notes_of_heavy_commands(command, place):
    check_manners(command, place)


@pytest.mark.slow
def test_results_and_notes_of_export_and_serve(place):
    pytest.importorskip("aiohttp", reason="the server needs the extra `serving`")
    done = run("export", "-o", "exported", "--json", cwd=place)
    (report,) = map(json.loads, done.stdout.splitlines())
    assert (report["output"], report["format"], report["images"] > 0) == ("exported", "savedmodel", True)
    assert done.stderr == ""
    argv = [*TFDEIT, "serve", "exported", "--json", "--quiet", "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place) as server:
        where = json.loads(server.stdout.readline())
        assert where["rest"] == f"{where['page']}v1/models/exported"
        server.send_signal(signal.SIGTERM)
        rest, errors = server.communicate(timeout=120)
    assert (server.returncode, rest) == (0, "")
    # What TensorFlow's native code logs while it serves is on stderr.
    assert not [line for line in errors.splitlines() if not re.match(r"[IWE]0000 ", line)]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["predikt", "x.jpg"], "'predict'"),
        (["predict", "x.jpg", "--modle", "y"], "'--model'"),
        (["serve", "x", "--max_queue=3"], "'--max-queue'"),
        (["predict", "x.jpg", "--protocol", "tim"], "'timm'"),
        (["export", "-o", "x", "--format", "onxx"], "'onnx'"),
        (["export", "-o", "x", "--dtype", "float61"], "'float16'"),
        (["port", "x", "-o", "y", "--to", "tim"], "'timm'"),
        (["port", "x", "-o", "y", "--set", "hiden_size=3"], "'hidden_size'"),
        (["info", "Deit_Tiny_patch16_244"], "'deit_tiny_patch16_224'"),
        (["evaluate", "--data", "x", "--head", "clas"], "'class'"),
        (["completion", "bsh"], "'bash'"),
    ],
)
def test_typos(args, hint, capsys):
    try:
        status = main(args)
    except SystemExit as end:
        status = end.code
    assert status == 2
    what, advice = capsys.readouterr().err.splitlines()
    assert what.startswith("tfdeit")
    assert ": error: " in what
    assert advice.startswith(f"  Did you mean {hint}")


def test_hints():
    assert did_you_mean("linear_prob", RECIPES) == " Did you mean 'linear_probe'?"
    assert did_you_mean("xyz", RECIPES) == ""
    assert did_you_mean("xabc1", ["abc1", "abc2"], limit=2) == " Did you mean 'abc1' or 'abc2'?"
    assert did_you_mean("deit_sma", ["de_sma", "deit_small_a", "deit_small_b"]) == " Did you mean 'deit_small_a'?"
    assert did_you_mean("", ["ab1"]) == ""


def test_the_names_of_recipes_are_those_there_are():
    text = " ".join(commands()["train"].format_help().split())
    assert f"Recipes: {', '.join(RECIPES)}." in text


def test_an_error_without_a_hint_says_what_to_do(capsys):
    with pytest.raises(SystemExit) as end:
        main(["pack", "data"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "tfdeit pack: error: the following arguments are required: -o/--output\n"
        "  `tfdeit pack --help` lists the arguments.\n"
    )


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (ValueError("Expected x. Received: 'a.b'. Pass y."), 2, "error: Expected x. Received: 'a.b'.\n  Pass y.\n"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "error: a.png: No such file or directory\n"),
        (ImportError("Expected x to be installed"), 2, "error: Expected x to be installed\n"),
        (terminal.Failure("not equal"), 1, "error: not equal\n"),
        (KeyError("a"), 1, "error: unexpected KeyError: 'a'\n  `tfdeit list --debug ...` shows where it comes from.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_command_raises(error, status, shown, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(zoo, "list_models", fail)
    assert main(["list"]) == status
    assert capsys.readouterr().err == f"tfdeit list: {shown}"
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            main(["list", "--debug"])


def test_an_interrupt_leaves_no_traceback():
    with subprocess.Popen(
        [*TFDEIT, "predict", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as waiting:
        waiting.stdin.write("photo.png\n")
        waiting.stdin.flush()
        unread = array.array("i", [1])
        while unread[0] and waiting.poll() is None:  # until it waits for more of its list
            time.sleep(0.05)
            fcntl.ioctl(waiting.stdin, termios.FIONREAD, unread)
        waiting.send_signal(signal.SIGINT)
        out, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, out, errors) == (130, "", "tfdeit predict: interrupted\n")


def test_a_closed_pipe_makes_no_noise():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("list", status=1, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.stderr == ""


def in_terminal(*args, columns: int, **variables) -> str:
    """Runs a command whose stdout is a terminal of a width; returns what it shows."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TTY_COMPATIBLE")}
    env |= {"TERM": "xterm-256color", "COLUMNS": str(columns), **variables}
    with subprocess.Popen([*TFDEIT, *args], stdout=theirs, stderr=subprocess.PIPE, text=True, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux tells the end
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_tables_in_terminals_of_any_width():
    wide = in_terminal("list", "deit-base*", columns=120)
    assert "\x1b[" in wide  # bold headers
    assert "\x1b[3" not in in_terminal("list", "deit-base*", columns=120, NO_COLOR="1")  # no colour
    lines = {n: re.sub(r"\x1b\[[\d;]*m", "", in_terminal("list", "deit-b*", columns=n)).splitlines() for n in (80, 40)}
    assert max(map(len, lines[80])) <= 80
    assert lines[80][0].split()[-2:] == ["measured", "with"]
    assert [line for line in lines[40] if not line.startswith("  ")] == list_models("deit-b*")
    assert "  measured with mmpretrain" in lines[40]


def test_a_pipe_gets_whole_rows(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # as GNU readline leaves one to children of a Python prompt
    rows = [["[bold]x" * 40, "1"], ["y", "22"]]
    lines = terminal.table(["name", "n"], rows, "title").splitlines()
    assert [line.split() for line in lines] == [["title"], ["name", "n"], *rows]  # no markup is read from a name
    assert {len(line) for line in lines[1:]} == {len(rows[0][0]) + 4}


def test_json_has_no_numbers_that_are_none(monkeypatch, capsys):
    monkeypatch.setattr(terminal._output, "json", True)
    terminal.result({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (None, "e")}}, "text")
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": [None, "e"]}}


def complete(line: str, place) -> list[str]:
    """Returns what bash, with our script, offers at the end of a line."""
    script = """
    eval "$("$PYTHON" -m tfdeit completion bash)"
    function=$(complete -p tfdeit | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    COMP_LINE="$LINE" COMP_POINT=${#LINE} COMP_TYPE=9 COMP_WORDS=($LINE) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    $function tfdeit
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    shim = place / "bin" / "tfdeit"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -X importtime -m tfdeit "$@" 2>>"{place}/imports"\n')
    shim.chmod(0o755)
    env = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHON": sys.executable, "LINE": line}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=place, timeout=60)
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes(place):
    assert complete("tfdeit pre", place) == ["predict"]
    assert complete("tfdeit predict x --mod", place) == ["--model"]
    models = {"deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"}
    assert models <= set(complete("tfdeit predict x --model deit_ti", place))
    assert "data/" in complete("tfdeit predict x --model da", place)
    assert complete("tfdeit train --out x --recipe lin", place) == ["linear_probe"]
    assert complete("tfdeit predict x --protocol d", place) == ["deit3"]
    assert complete("tfdeit port x -o y --set hidden_s", place) == ["hidden_size="]
    imported = {line.split("|")[-1].strip().split(".")[0] for line in (place / "imports").read_text().splitlines()}
    assert {"argcomplete", "tfdeit"} <= imported
    assert not imported & {"tensorflow", "keras", "numpy", "PIL", "rich"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_in_the_language_of_the_shell(shell):
    script = run("completion", shell).stdout
    assert "tfdeit" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, check=True, text=True)
