"""The versions of a base directory: its numbered children. Imports nothing heavy."""

from pathlib import Path


def find_versions(directory: Path) -> list[int]:
    """Returns the versions of a base directory in ascending order: its numeric children.

    Raises:
        ValueError: if there are none.
    """
    children = directory.iterdir() if directory.is_dir() else ()
    versions = sorted({int(path.name) for path in children if is_number(path.name) and path.is_dir()})
    if not versions:
        hint = " It is a version itself: pass its parent." if (directory / "saved_model.pb").exists() else ""
        raise ValueError(
            f"Expected a directory with a SavedModel in a numbered directory, {directory}/1/saved_model.pb. "
            f"Received: {'no such directory' if not directory.is_dir() else 'none'}.{hint}"
        )
    return versions


def find_version(directory: Path, version: int) -> Path:
    """Returns the directory of a version, whose name may have leading zeros.

    Raises:
        FileNotFoundError: if it holds no SavedModel.
    """
    for path in directory.iterdir():
        if is_number(path.name) and int(path.name) == version and (path / "saved_model.pb").is_file():
            return path
    raise FileNotFoundError(f"Expected a SavedModel, {directory}/{version}/saved_model.pb. Received: none")


def is_number(text: str) -> bool:
    """Whether a text is made of ASCII digits."""
    return text.isascii() and text.isdecimal()
