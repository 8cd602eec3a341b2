"""Packed records: the images of any source in a few TFRecord files, with an index for random access.

A packed folder contains `images-00000.tfrecord`, ... of `tf.train.Example`s with the features image (original bytes),
label and name, which any TFRecord reader can read; `index.json`, with counts and class names; and `index.npz`, with the
position of each record.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdeit.data.source import Source
from tfdeit.preprocessing.images import ImageError, decode_image, reason

FORMAT = "tfdeit records 1"
_HEADER = struct.Struct("<QI")  # length and its checksum; then come the record and its checksum (4 bytes)


class RecordSource(Source):
    """A folder that `pack` wrote.

    Args:
        folder: the folder, which contains index.json.

    Raises:
        ValueError: if `pack` did not write it, or a file is missing or has a different length.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        found = index.get("format")
        if found != FORMAT:
            raise ValueError(f"Expected {FORMAT!r} in {folder}/index.json. Received: {found!r}; pack the images again.")
        for shard in index["shards"]:
            path = self.folder / shard["file"]
            size = path.stat().st_size if path.is_file() else "no file"
            if size != shard["bytes"]:
                raise ValueError(f"Expected {shard['bytes']} bytes in {path}. Received: {size}; pack the images again.")
        self.files = [os.open(self.folder / shard["file"], os.O_RDONLY) for shard in index["shards"]]
        with np.load(self.folder / "index.npz") as table:
            self.shard, self.offset, self.checksum = table["shard"], table["offset"], table["checksum"]
            super().__init__(table["label"], index["class_names"])

    def __del__(self):
        for file in getattr(self, "files", ()):
            os.close(file)

    def __repr__(self):
        return f"RecordSource({str(self.folder)!r})"

    def _example(self, index):
        file, offset = self.files[self.shard[index]], int(self.offset[index])
        length, _ = _HEADER.unpack(os.pread(file, _HEADER.size, offset))
        record = os.pread(file, length, offset + _HEADER.size)
        if zlib.crc32(record) != self.checksum[index]:
            raise OSError(f"record {index} of {self.folder} is damaged: its checksum differs")
        return tf.train.Example.FromString(record).features.feature

    def read(self, index):
        """See `Source`."""
        return self._example(index)["image"].bytes_list.value[0]

    def name(self, index):
        """See `Source`."""
        try:
            return os.fsdecode(self._example(index)["name"].bytes_list.value[0])
        except OSError:
            return f"{self.folder}, record {index}"


def pack(
    source: Source,
    output: str | os.PathLike,
    on_error: str = "raise",
    shard_bytes: int = 128 * 2**20,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Writes the images of a source as records, in the order of the source, without changing their bytes.

    Every image is decoded once, to find broken ones. The folder appears when everything is written; the remains of an
    interrupted run are removed by the next.

    Args:
        source: the images.
        output: the folder to create.
        on_error: what to do about an image that cannot be read: "raise" an error, or "skip" it.
        shard_bytes: size in bytes at which a file is ended and the next one started.
        advance: called with the number of images done since the last call.

    Returns:
        The path of every image that was skipped, and the reason; skipped.txt lists them too.

    Raises:
        FileExistsError: if `output` exists.
        ImageError: for an image that cannot be read, with on_error="raise".
        ValueError: if no image can be read, or `on_error` is something else.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"Expected on_error to be 'raise' or 'skip'. Received: on_error={on_error!r}")
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"Expected a new folder. Received: {output}, which exists; remove it, or choose another.")
    part = output.with_name(output.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)

    writer, skipped = _Writer(part, shard_bytes), []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), 256):
            numbers = range(start, min(start + 256, len(source)))
            for sample, problem in pool.map(lambda number: _checked(source, number), numbers):
                if problem and on_error == "raise":
                    raise ImageError(problem)
                if problem:
                    skipped.append(problem)
                else:
                    writer.write(sample)
            advance(len(numbers))
    if len(skipped) == len(source):
        raise ValueError(f"Expected at least one image that can be read. Received: none of {len(source)}; {skipped[0]}")
    writer.close(source.class_names)
    if skipped:
        text = "".join(f"{line}\n" for line in skipped)
        (part / "skipped.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    part.rename(output)
    return skipped


def _checked(source, number):
    """Returns a sample and None, or None and what is wrong with the sample."""
    try:
        sample = source[number]
        decode_image(sample.data)
        return sample, None
    except (OSError, ImageError) as error:
        return None, f"{source.name(number)}: {reason(error)}"


class _Writer:
    def __init__(self, folder, shard_bytes):
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards, self.rows, self.file, self.end = [], [], None, 0

    def write(self, sample):
        if self.file is None:
            self.shards.append({"file": f"images-{len(self.shards):05}.tfrecord", "images": 0})
            self.file = tf.io.TFRecordWriter(str(self.folder / self.shards[-1]["file"]))
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[sample.data])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[sample.label])),
            "name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[os.fsencode(sample.name)])),
        }
        record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
        self.file.write(record)
        self.rows.append((len(self.shards) - 1, self.end, sample.label, zlib.crc32(record)))
        self.shards[-1]["images"] += 1
        self.end += _HEADER.size + len(record) + 4
        if self.end >= self.shard_bytes:
            self._end_shard()

    def _end_shard(self):
        if self.file is not None:
            self.file.close()
            self.shards[-1]["bytes"] = self.end
            self.file, self.end = None, 0

    def close(self, class_names):
        self._end_shard()
        shard, offset, label, checksum = map(np.array, zip(*self.rows, strict=True))
        columns = {"shard": shard.astype("int32"), "offset": offset, "label": label.astype("int32")}
        np.savez(self.folder / "index.npz", **columns, checksum=checksum.astype("uint32"))
        index = {
            "format": FORMAT,
            "images": len(self.rows),
            "class_names": class_names,
            "images_per_class": np.bincount(label, minlength=len(class_names)).tolist(),
            "shards": self.shards,
        }
        (self.folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
