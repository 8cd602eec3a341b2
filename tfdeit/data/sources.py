"""Where labelled images come from: folders, zips, lists and tensorflow_datasets, all with random access.

A source knows the label and the name of every sample without reading it, and reads the bytes of any one. Everything
else (shuffling, sharding, resuming) is done on the numbers of the samples, in `order.py`. Packed records, which are a
source too, are in `records.py`.
"""

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# torchvision's IMG_EXTENSIONS, so that both find the same files.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "val", "valid", "validation", "test"}


class Sample(NamedTuple):
    """One image as it is stored."""

    data: bytes  # content of the file
    label: int
    name: str


class Source:
    """Labelled images. Reading is safe from several threads.

    Args:
        labels: (N,) class numbers.
        class_names: the names of all classes.

    Attributes:
        labels: (N,) int32.
        class_names: list of str.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, class_names: Sequence[str]):
        self.labels = np.asarray(labels, "int32").reshape(-1)
        self.class_names = list(class_names)
        if not len(self.labels):
            raise ValueError(f"Expected at least one image. Received: none in {self!r}")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected an index below {len(self)}. Received: {index}")
        index %= len(self)
        return Sample(self.read(index), int(self.labels[index]), self.name(index))

    def read(self, index: int) -> bytes:
        """Returns the content of a file."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Returns what to call a sample in messages: its path, where it has one."""
        raise NotImplementedError


class FolderSource(Source):
    """A folder with a subfolder for each class, files and classes in the order of torchvision's ImageFolder.

    Args:
        folder: holds CLASS/.../FILE; links are followed.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no class folders, or one without images.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = str(folder)
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        self.paths, labels = [], []
        for label, name in enumerate(classes):
            paths = list(_images_below(os.path.join(folder, name)))
            if not paths:
                raise ValueError(
                    f"Expected images ({' '.join(EXTENSIONS)}) in each class folder. Received: none in "
                    f"{os.path.join(folder, name)}; remove it, or add some."
                )
            self.paths += paths
            labels += [label] * len(paths)
        super().__init__(labels, classes)

    def __repr__(self):
        return f"FolderSource({self.folder!r})"

    def read(self, index):
        """See `Source`."""
        return Path(self.paths[index]).read_bytes()

    def name(self, index):
        """See `Source`."""
        return self.paths[index]


class ZipSource(Source):
    """A zip of a folder for `FolderSource`, read without being unpacked; zip64 too.

    Args:
        path: the zip.
        folder: the folder inside it that holds the class folders, such as "train"; "" for the zip itself.

    Raises:
        ValueError: if it is no zip, or has no images in class folders there.
    """

    def __init__(self, path: str | os.PathLike, folder: str = ""):
        self.path, self.folder = str(path), folder
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"Expected a zip. Received: {path}, which is damaged or none ({error})") from None
        start = folder.strip("/").split("/") if folder.strip("/") else []
        found: dict[str, list] = {}
        for member in self.archive.infolist():
            parts = member.filename.split("/")
            if parts[0] == "__MACOSX":  # what the Finder adds to each file, under its name
                continue
            if parts[: len(start)] == start and len(parts) > len(start) + 1 and _is_image(member.filename):
                found.setdefault(parts[len(start)], []).append((parts[len(start) + 1 :], member))
        classes = sorted(found)
        self.members = [member for name in classes for _, member in sorted(found[name], key=_walk_order)]
        super().__init__(np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes]), classes)

    def __repr__(self):
        return f"ZipSource({self.path!r}, {self.folder!r})"

    def read(self, index):
        """See `Source`."""
        try:
            return self.archive.read(self.members[index])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise OSError(f"damaged, encrypted or unknown compression: {error}") from error

    def name(self, index):
        """See `Source`."""
        return f"{self.path}/{self.members[index].filename}"


class ListSource(Source):
    """Images listed in a file: CSV with the columns path and label, or JSONL of objects with these keys.

    Args:
        path: the list, .csv or .jsonl. Paths in it are relative to its folder.
        class_names: of all classes. By default those that occur, sorted; with labels that are numbers, the numbers
            from 0 to the largest.

    Raises:
        ValueError: if a line lacks a path or a label, or its label is no class.
    """

    def __init__(self, path: str | os.PathLike, class_names: Sequence[str] | None = None):
        self.path = Path(path)
        rows = list(_read_list(self.path))
        self.paths = [name for name, _ in rows]
        found = [label for _, label in rows]
        numbers = all(label.isdecimal() for label in found)
        if class_names is None:
            largest = max(map(int, found), default=-1) if numbers else -1
            class_names = [str(i) for i in range(largest + 1)] if numbers else sorted(set(found))
        number_of = {str(name): i for i, name in enumerate(class_names)}
        if numbers and not set(found) <= number_of.keys():
            number_of = {str(i): i for i in range(len(class_names))}
        unknown = sorted(set(found) - number_of.keys())
        if unknown:
            raise ValueError(f"Expected labels out of {class_names}, or their numbers. Received: {unknown} in {path}")
        super().__init__([number_of[label] for label in found], class_names)

    def __repr__(self):
        return f"ListSource({str(self.path)!r})"

    def read(self, index):
        """See `Source`."""
        return Path(self.name(index)).read_bytes()

    def name(self, index):
        """See `Source`."""
        return str(self.path.parent / self.paths[index])


class TfdsSource(Source):
    """A split of a tensorflow_datasets builder that has been prepared in the format array_record.

    Args:
        builder: a builder, or the name of a dataset such as "oxford_flowers102".
        split: "train", "test[:50%]", ...
        image_key: name of the image among its features.
        label_key: name of the label.

    Raises:
        ImportError: without tensorflow_datasets.
        ValueError: if the builder was prepared in a format without random access.
    """

    def __init__(self, builder, split: str = "train", image_key: str = "image", label_key: str = "label"):
        import tensorflow_datasets as tfds

        if isinstance(builder, str):
            builder = tfds.builder(builder, file_format="array_record")
        self.builder, self.split, self.image_key = builder, split, image_key
        skip = {image_key: tfds.decode.SkipDecoding()}
        try:
            self.samples = builder.as_data_source(split, decoders=skip)
        except NotImplementedError as error:
            raise ValueError(
                f"Expected {builder.info.full_name} in a format with random access; prepare it with "
                'tfds.builder(..., file_format="array_record").download_and_prepare(), or write its images to a '
                f"folder and pack that. Received: {error}"
            ) from None
        labels = [sample[label_key] for sample in self.samples]
        super().__init__(labels, builder.info.features[label_key].names)

    def __repr__(self):
        return f"TfdsSource({self.builder.info.full_name!r}, {self.split!r})"

    def read(self, index):
        """See `Source`."""
        return bytes(self.samples[index][self.image_key])

    def name(self, index):
        """See `Source`."""
        return f"{self.builder.info.full_name}/{self.split}/{index}"


def open_source(path: str | os.PathLike, split: str | None = None) -> Source:
    """Opens a source by what is at a path.

    Args:
        path: a folder of class folders; a folder that `tfdeit pack` wrote; a zip; or a list, .csv or .jsonl.
        split: a folder inside it, such as "train" or "val", where it has such.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if what is there is no source, or has splits and none is chosen.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a folder, a zip, or a list (.csv, .jsonl). Received: {path}, not there")
    if path.is_dir():
        folder = path / (split or "")
        if (folder / "index.json").is_file():
            from tfdeit.data.records import RecordSource

            return RecordSource(folder)
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        _check_split(path, split, inside)
        return FolderSource(folder)
    if path.suffix == ".zip":
        source = ZipSource(path, split or "")
        _check_split(path, None, source.class_names)
        return source
    if path.suffix in (".csv", ".jsonl") and split is None:
        return ListSource(path)
    raise ValueError(
        "Expected a folder, a zip, or a list (.csv, .jsonl; each split in a file of its own). "
        f"Received: {path}, split={split!r}"
    )


def _check_split(path, split, inside):
    if split is not None and inside and not SPLITS & set(inside):
        raise ValueError(f"Expected no split, for the folders in {path} are classes. Received: split={split!r}")
    if split is not None and split not in inside:
        raise ValueError(f"Expected a split out of {inside} in {path}. Received: split={split!r}")
    if split is None and inside and set(inside) <= SPLITS:
        raise ValueError(f"Expected a split to be chosen, for {path} holds {inside}. Received: split=None")


def _is_image(name):
    return name.lower().endswith(EXTENSIONS)


def _images_below(folder):
    for root, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if _is_image(name):
                yield os.path.join(root, name)


def _walk_order(entry):
    """Sorts as `_images_below` does: by the folder, as a string, then by the name."""
    parts, _ = entry
    return "/".join(parts[:-1]), parts[-1]


def _read_list(path):
    """Yields (path, label) as strings."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin with a byte order mark
        rows = csv.DictReader(file) if path.suffix == ".csv" else _objects(file, path)
        for number, row in enumerate(rows, 2 if path.suffix == ".csv" else 1):
            values = row.get("path"), row.get("label")
            if any(value in (None, "") for value in values):
                raise ValueError(f"Expected a path and a label in line {number} of {path}. Received: {row}")
            yield tuple(map(str, values))


def _objects(file, path):
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Expected a JSON object in line {number} of {path}. Received: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"Expected a JSON object in line {number} of {path}. Received: {line.strip()}")
        yield row
