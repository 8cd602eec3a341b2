"""The versions in a model's base directory, which are its numbered children. Imports nothing heavy."""

from pathlib import Path


def find_versions(directory: Path) -> list[int]:
    """Returns the versions in a base directory, in ascending order.

    Raises:
        ValueError: if there are none.
    """
    children = directory.iterdir() if directory.is_dir() else ()
    versions = sorted({int(path.name) for path in children if is_number(path.name) and path.is_dir()})
    if not versions:
        received = "a directory without one" if directory.is_dir() else "no such directory"
        is_version = (directory / "saved_model.pb").exists()
        hint = "It is a version itself: pass its parent." if is_version else "Write one with `tfdeit export`."
        raise ValueError(
            f"Expected a directory with a SavedModel in a numbered directory, {directory}/1/saved_model.pb. "
            f"Received: {received}. {hint}"
        )
    return versions


def find_version(directory: Path, version: int) -> Path:
    """Returns the directory of a version. Its name may have leading zeros.

    Raises:
        FileNotFoundError: if there is no SavedModel in it.
    """
    for path in directory.iterdir():
        if is_number(path.name) and int(path.name) == version and (path / "saved_model.pb").is_file():
            return path
    raise FileNotFoundError(f"Expected a SavedModel at {directory}/{version}/saved_model.pb. Received: no such file")


def is_number(text: str) -> bool:
    """Whether a text consists of ASCII digits."""
    return text.isascii() and text.isdecimal()
