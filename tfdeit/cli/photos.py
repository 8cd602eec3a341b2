"""The photos that arguments name, and what is said of those that cannot be used."""

import glob
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tfdeit.presentation.terminal import complain

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def find_images(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the paths that arguments stand for, in order, and a message for each that stands for none."""
    paths, failed = [], []
    for argument in arguments:
        if argument == "-":
            paths += [line for line in sys.stdin.read().splitlines() if line]
            continue
        found = [argument]
        if os.path.isdir(argument):
            files = (path for path in sorted(Path(argument).rglob("*")) if path.is_file())
            found = [str(path) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
        paths += found
        if not found:
            failed.append(f"{argument}: no images found")
    return paths, failed


def report_failures(reasons: list[str]) -> int:
    """Prints what could not be used on stderr; returns the exit status for that."""
    for reason in reasons:
        complain(reason)
    return 1 if reasons else 0
