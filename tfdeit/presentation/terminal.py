"""How all commands speak: results on stdout, everything else on stderr, with rich where somebody watches."""

import contextlib
import json
import math
import os
import re
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

PATIENCE = 2.0  # seconds before a progress bar appears
FOLDED = 24  # characters that the first column of a table is folded to where there is no room
_output = types.SimpleNamespace(command="tfdeit", quiet=False, json=False)


class Failure(Exception):
    """What ends a command with status 1, although it was used rightly; the message says what to do."""


def configure_output(command: str, quiet: bool, json: bool) -> None:
    """Sets how results, notes and errors are printed from now on.

    Args:
        command: such as "tfdeit predict", the beginning of every line on stderr.
        quiet: whether to leave out progress and notes.
        json: whether results are JSON.
    """
    _output.command, _output.quiet, _output.json = command, quiet, json
    setattr(warnings, "showwarning", lambda message, *_, **__: note(str(message)))  # noqa: B010 - typed as a function


def result(values: Mapping[str, Any], text: str | None) -> None:
    """Prints a result on stdout: `values` as a JSON object in one line if so asked for, else `text`, unless None."""
    if _output.json:
        print(json.dumps(_finite(values), allow_nan=False), flush=True)
    elif text is not None:
        print(text, flush=True)


def _finite(value: Any) -> Any:
    """Returns a value for JSON, which has no infinity and nothing that is no number: null."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image", "2 images", "2 classes"."""
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def note(text: str) -> None:
    """Prints on stderr what is good to know, unless quiet."""
    if not _output.quiet:
        complain(text)


def complain(text: str) -> None:
    """Prints on stderr what could not be used or done."""
    print(f"{_output.command}: {text}", file=sys.stderr, flush=True)


def report_error(message: str, advice: str = "") -> None:
    """Prints on stderr why a command ends, and in a second line what to do.

    Args:
        message: in the form "Expected ... Received: ...", what to do perhaps behind it.
        advice: what to do, if the message does not say it.
    """
    what = re.sub(r"(Received: .*?[.!?]) (?=[A-Z`])", r"\1\n  ", message.strip(), count=1)
    complain(f"error: {what}" + f"\n  {advice}" * bool(advice))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> str:
    """Returns a table as text for stdout; in a terminal that is too narrow, a block of lines for each row.

    Args:
        columns: the headers; the first column is at the left, the others are at the right.
        rows: the cells.
        title: a line above.
    """
    from rich.table import Table

    console = stdout_console()
    grid = Table(*columns[:1], box=None, title=title, title_justify="left", pad_edge=False)
    grid.columns[0].overflow = "fold"
    for column in columns[1:]:
        grid.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    first = max(len(row[0]) for row in [columns, *rows])
    needed = console.measure(grid, options=console.options.update(width=10**6)).maximum
    if needed - max(first - FOLDED, 0) > console.width:
        lines = [title] if title else []
        for row in rows:
            lines += [row[0], *(f"  {name} {cell}" for name, cell in zip(columns[1:], row[1:], strict=True))]
        return "\n".join(lines)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def stdout_console() -> "Console":
    """Returns rich's console of stdout, which takes text as it is; as wide as need be if nobody watches."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10**4, markup=False, emoji=False, highlight=False)


def attended() -> bool:
    """Whether somebody watches stderr, and wants to."""
    return sys.stderr.isatty() and not _output.quiet


def progress_bar(*columns: "str | ProgressColumn") -> "Progress":
    """Returns rich's progress bar on stderr, for an attended one: columns that stand behind the bar; not started."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    # Results that go to the same terminal are printed above the bar.
    return Progress(
        "{task.description}",
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False),
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    )


@contextlib.contextmanager
def progress(total: int, action: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Gives a function that counts items; it draws a bar on an attended stderr once `PATIENCE` seconds are over."""
    if not attended():
        yield lambda count: None
        return
    from rich.progress import MofNCompleteColumn

    bar = progress_bar(MofNCompleteColumn(), "{task.fields[rate]}")
    task, start = bar.add_task(action, total=total, completed=done, rate=""), time.monotonic()

    def advance(count: int) -> None:
        new = bar.tasks[0].completed + count - done
        bar.update(task, advance=count, rate=f"{new / max(time.monotonic() - start, 1e-9):.0f}/s")
        if time.monotonic() - start > PATIENCE and not bar.live.is_started:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextlib.contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Gives a function of (bytes so far, bytes in all or None) that draws a bar on an attended stderr."""
    if not attended():
        yield lambda done, total: None
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """Gives a function that says what is being done on an attended stderr, whatever happens to stderr meanwhile."""
    if not attended():
        yield lambda text: None
        return
    from rich.console import Console

    with os.fdopen(os.dup(2), "w") as stream, Console(file=stream).status("starting") as status:
        yield status.update


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Drops what native code writes on stderr: TensorFlow logs its start there whatever TF_CPP_MIN_LOG_LEVEL says."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
