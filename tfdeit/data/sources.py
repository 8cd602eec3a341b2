"""Where labelled images come from: folders, zips, lists and tensorflow_datasets, all with random access.

A source knows the label and name of every image without reading it, and can read any of them. Shuffling, sharding and
resuming work on the indices of the images, in `order.py`. Packed records, which are also a source, are in `records.py`.
"""

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfdeit.data.source import Source

# torchvision's IMG_EXTENSIONS, so that both find the same files.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "val", "valid", "validation", "test"}


class FolderSource(Source):
    """A folder with one subfolder per class; files and classes are in the order of torchvision's ImageFolder.

    Args:
        folder: the folder, which contains CLASS/.../FILE; links are followed.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it has no class folders, or one of them has no images.
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
                    f"{os.path.join(folder, name)}; add some, or remove the folder."
                )
            self.paths += paths
            labels += [label] * len(paths)
        _check_classes(classes, folder)
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
    """A zip file of a folder for `FolderSource`, read without unpacking it; zip64 too.

    Args:
        path: the zip file.
        folder: the folder inside it that contains the class folders, such as "train"; "" for the top level.

    Raises:
        ValueError: if it is not a zip file, or has no images in class folders there.
    """

    def __init__(self, path: str | os.PathLike, folder: str = ""):
        self.path, self.folder = str(path), folder
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"Expected a zip file. Received: {path}, which is not one, or damaged ({error})") from None
        start = folder.strip("/").split("/") if folder.strip("/") else []
        found: dict[str, list] = {}
        for member in self.archive.infolist():
            parts = member.filename.split("/")
            if parts[0] == "__MACOSX":  # metadata that the Finder adds for each file, under the same name
                continue
            if parts[: len(start)] == start and len(parts) > len(start) + 1 and _is_image(member.filename):
                found.setdefault(parts[len(start)], []).append((parts[len(start) + 1 :], member))
        classes = sorted(found)
        _check_classes(classes, "/".join([self.path, *start]))
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
    """Images listed in a file: CSV with the columns path and label, or JSONL with one object per line with these keys.

    Args:
        path: the list, .csv or .jsonl. Paths in it are relative to its folder.
        class_names: names of all classes. By default the labels that occur, sorted; if the labels are numbers, the
            numbers from 0 to the largest.

    Raises:
        ValueError: if the list is empty, a line lacks a path or a label, or a label is not a class.
    """

    def __init__(self, path: str | os.PathLike, class_names: Sequence[str] | None = None):
        self.path = Path(path)
        rows = list(_read_list(self.path))
        if not rows:
            raise ValueError(f"Expected a path and a label of at least one image in {path}. Received: an empty list")
        self.paths = [name for name, _ in rows]
        found = [label for _, label in rows]
        numbers = all(label.isdecimal() for label in found)
        if class_names is None:
            class_names = list(map(str, range(max(map(int, found)) + 1))) if numbers else sorted(set(found))
        number_of = {str(name): i for i, name in enumerate(class_names)}
        if numbers and not set(found) <= number_of.keys():
            number_of = {str(i): i for i in range(len(class_names))}
        unknown = sorted(set(found) - number_of.keys())
        if unknown:
            raise ValueError(f"Expected labels among {class_names}, or their numbers. Received: {unknown} in {path}")
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
    """A split of a tensorflow_datasets builder that was prepared in the format array_record.

    Args:
        builder: a builder, or the name of a dataset such as "oxford_flowers102".
        split: "train", "test[:50%]", ...
        image_key: name of the feature with the image.
        label_key: name of the feature with the label.

    Raises:
        ImportError: if tensorflow_datasets is not installed.
        ValueError: if the builder was prepared in a format without random access, or the split is empty.
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
                f"folder and pack it. Received: {error}"
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
    """Opens the source at a path, whichever kind it is.

    Args:
        path: a folder of class folders; a folder that `tfdeit pack` wrote; a zip file; or a list, .csv or .jsonl.
        split: the folder inside it to open, such as "train" or "val", if it has splits.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is not a source, or has splits and none is chosen.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"Expected a folder, zip or list (.csv, .jsonl). Received: {path}, which does not exist"
        )
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
        raise ValueError(f"Expected no split, as the folders in {path} are classes. Received: split={split!r}")
    if split is not None and split not in inside:
        raise ValueError(f"Expected split to be a folder in {path} ({inside or 'none'}). Received: split={split!r}")
    if split is None and inside and set(inside) <= SPLITS:
        raise ValueError(f"Expected a split to be chosen, as {path} has {inside}. Received: split=None")


def _check_classes(classes, folder):
    if not classes:
        raise ValueError(
            f"Expected at least one image ({' '.join(EXTENSIONS)}) in a class folder, such as "
            f"{folder}/CLASS/photo.jpg. Received: none; make one folder per class, or choose another folder."
        )


def _is_image(name):
    return name.lower().endswith(EXTENSIONS)


def _images_below(folder):
    for root, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if _is_image(name):
                yield os.path.join(root, name)


def _walk_order(entry):
    """Key to sort as `_images_below` does: by the folder, as a string, then by the file name."""
    parts, _ = entry
    return "/".join(parts[:-1]), parts[-1]


def _read_list(path):
    """Yields the (path, label) of each line, as strings."""
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
