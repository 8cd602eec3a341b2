"""Packed records: what is written, and how it is read."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from PIL import Image

from tfdeit.data.records import RecordSource, pack
from tfdeit.data.sources import FolderSource, open_source
from tfdeit.preprocessing.images import ImageError


@pytest.fixture
def folder(tmp_path, rng):
    """200 images of three formats in four classes."""
    for i in range(200):
        path = tmp_path / "photos" / f"class{i % 4}" / f"{i:03}.{('jpg', 'png', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), "uint8")).save(path)
    return tmp_path / "photos"


def test_records_equal_the_folder(folder, tmp_path):
    source, done = FolderSource(folder), []
    assert pack(source, tmp_path / "packed", shard_bytes=20_000, advance=done.append) == []
    assert sum(done) == 200
    records = open_source(tmp_path / "packed")
    assert isinstance(records, RecordSource)
    assert records.class_names == source.class_names
    assert list(records) == list(source)
    index = json.loads((tmp_path / "packed/index.json").read_text())
    assert index["images"] == 200
    assert index["images_per_class"] == [50] * 4
    assert len(index["shards"]) > 1
    assert sum(shard["images"] for shard in index["shards"]) == 200


def test_tensorflow_reads_the_records(folder, tmp_path):
    source = FolderSource(folder)
    pack(source, tmp_path / "packed", shard_bytes=20_000)
    files = sorted(map(str, (tmp_path / "packed").glob("*.tfrecord")))
    kinds = {"image": tf.io.FixedLenFeature((), tf.string), "label": tf.io.FixedLenFeature((), tf.int64)}
    parsed = [tf.io.parse_single_example(record, kinds) for record in tf.data.TFRecordDataset(files)]
    assert [example["image"].numpy() for example in parsed] == [sample.data for sample in source]
    assert [int(example["label"]) for example in parsed] == source.labels.tolist()


def test_broken_images(folder, tmp_path):
    broken = [folder / "class0/000.jpg", folder / "class1/001.png"]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:60])
    source = FolderSource(folder)
    with pytest.raises(ImageError, match=r"class0/000.jpg: the file is empty"):
        pack(source, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    skipped = pack(source, tmp_path / "packed", on_error="skip")  # over what the first run left
    assert [line.split(":")[0] for line in skipped] == list(map(str, broken))
    assert (tmp_path / "packed/skipped.txt").read_text().splitlines() == skipped
    assert {sample.name for sample in RecordSource(tmp_path / "packed")} == {
        str(path) for path in folder.rglob("*.*") if path not in broken
    }
    assert not (tmp_path / "packed.part").exists()


def test_names_that_are_not_utf8(folder, tmp_path):
    good, broken = (folder / "class0" / os.fsdecode(name) for name in (b"caf\xe9.png", b"bris\xe9.png"))
    shutil.copy(folder / "class1/001.png", good)
    broken.write_text("no image")
    (line,) = pack(FolderSource(folder), tmp_path / "packed", on_error="skip")
    assert line.startswith(str(broken))
    assert (tmp_path / "packed/skipped.txt").read_bytes() == os.fsencode(line + "\n")
    assert str(good) in {sample.name for sample in RecordSource(tmp_path / "packed")}


def test_damage_is_found(folder, tmp_path):
    pack(FolderSource(folder), tmp_path / "packed")
    shard = next((tmp_path / "packed").glob("*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    records = RecordSource(tmp_path / "packed")
    with pytest.raises(OSError, match="record 0 .* damaged"):
        records.read(0)
    assert records.name(0).endswith("packed, record 0")
    assert records.read(1)
    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=f"Expected {len(data)} bytes in .*pack the images again"):
        RecordSource(tmp_path / "packed")


def test_what_pack_refuses(folder, tmp_path):
    source = FolderSource(folder)
    with pytest.raises(FileExistsError, match="Expected a new folder"):
        pack(source, folder)
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        pack(source, tmp_path / "packed", on_error="ignore")
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="at least one image that can be read"):
        pack(source, tmp_path / "packed", on_error="skip")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/index.json").write_text("{}")
    with pytest.raises(ValueError, match="tfdeit records 1"):
        open_source(tmp_path / "packed")


def run(*args, status=0):
    done = subprocess.run([sys.executable, "-m", "tfdeit", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.slow
def test_command(folder, tmp_path):
    out = tmp_path / "packed"
    done = run("pack", folder, "-o", out)
    assert done.stdout == f"{out}: 200 images of 4 classes in 1 file\n"
    assert done.stderr == ""
    assert list(open_source(out)) == list(FolderSource(folder))
    assert "exists" in run("pack", folder, "-o", out, status=2).stderr
    bad = folder / "class2/bad.png"
    bad.write_text("no image")
    assert f"{bad}: not an image" in run("pack", folder, "-o", tmp_path / "2", status=2).stderr
    done = run("pack", folder, "-o", tmp_path / "2", "--on-error", "skip", status=1)
    assert done.stderr == f"tfdeit pack: {bad}: not an image in a format that Pillow reads\ntfdeit pack: 1 skipped\n"
    assert len(open_source(tmp_path / "2")) == 200


@pytest.mark.heavy
def test_a_hundred_thousand_images_need_no_more_memory_than_ten_thousand(tmp_path):
    """Packed, read and augmented in processes of their own, whose peak memory is compared."""
    peaks = [
        json.loads(subprocess.check_output([sys.executable, "-c", STREAM, str(tmp_path / str(n)), str(n)]))
        for n in (10_000, 100_000)
    ]
    assert [peak["images"] for peak in peaks] == [10_000, 100_000]
    assert peaks[1]["MiB"] - peaks[0]["MiB"] < 90_000 * 500 / 2**20  # 500 bytes an image: names, offsets, order


STREAM = """
import io, json, os, resource, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from PIL import Image
from tfdeit.data.pipeline import train_pipeline
from tfdeit.data.records import RecordSource, pack
from tfdeit.data.source import Source

class Generated(Source):
    def read(self, index):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (index % 251, index % 241, index % 239)).save(buffer, "BMP")
        return buffer.getvalue()
    def name(self, index):
        return str(index)

out, count = sys.argv[1], int(sys.argv[2])
pack(Generated(np.arange(count) % 10, range(10)), out)
pipeline = train_pipeline(RecordSource(out), 200, image_size=8)
seen = 0
for pixel_values, labels in pipeline.dataset().take(pipeline.steps_per_epoch):
    seen += len(labels)
print(json.dumps({"images": seen, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
