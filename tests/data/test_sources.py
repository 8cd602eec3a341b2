"""Sources, and the order of their samples."""

import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

from tfdeit.data.order import Order
from tfdeit.data.sources import FolderSource, ListSource, TfdsSource, ZipSource, open_source


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Classes whose order differs between bytes and case, files at two depths, and files that are no images."""
    names = ["train/b/2.png", "train/b/10.PNG", "train/b/deep/1.jpeg", "train/Zebra/x.webp", "train/a b/ü.png"]
    for level, name in enumerate(names):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    (tmp_path / "data/train/b/notes.txt").write_text("no image")
    (tmp_path / "data/train/readme.png").write_bytes(png(9))  # in no class
    (tmp_path / "data/val/b").mkdir(parents=True)
    (tmp_path / "data/val/b/v.png").write_bytes(png(7))
    return tmp_path / "data"


# Python's order of strings: capitals first, digits as characters, a folder's own files before those below it.
CLASSES = ["Zebra", "a b", "b"]
ORDER = ["Zebra/x.webp", "a b/ü.png", "b/10.PNG", "b/2.png", "b/deep/1.jpeg"]
LABELS = [0, 1, 2, 2, 2]


def check(source):
    assert source.class_names == CLASSES
    assert source.labels.tolist() == LABELS
    assert len(source) == 5
    assert [source.name(i).split("train/")[1] for i in range(5)] == ORDER
    levels = [Image.open(io.BytesIO(sample.data)).getpixel((0, 0))[0] for sample in source]
    assert levels == [3, 4, 1, 0, 2]
    assert [sample.label for sample in source] == LABELS
    assert source[-1] == source[4]


def test_folder_is_read_in_the_order_of_torchvision(folder):
    check(open_source(folder, "train"))
    check(FolderSource(folder / "train"))


def test_zip_equals_its_folder(folder, tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            # As zip64: what is larger than 4 GiB has the same fields.
            with archive.open(str(file.relative_to(folder)), "w", force_zip64=True) as member:
                member.write(file.read_bytes() if file.is_file() else b"")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/train/a/._1.png", b"of the Finder")
    check(open_source(path, "train"))
    assert open_source(path, "val").class_names == ["b"]
    with pytest.raises(ValueError, match="a split to be chosen"):
        open_source(path)


def test_zip_of_cifar10():
    path = ROOT.parent / "shared" / "data" / "cifar10-images.zip"
    if not path.exists():
        pytest.skip(f"needs {path}")
    train, test = ZipSource(path, "train"), ZipSource(path, "test")
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert Image.open(io.BytesIO(test.read(9999))).size == (32, 32)
    assert test.name(9999).endswith("test/truck/0999.jpg")


def test_a_damaged_member_is_an_error_of_its_own(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png(1))
        archive.writestr("a/2.png", png(2))
    data = bytearray(path.read_bytes())
    data[data.index(png(1)) + 20] ^= 255
    path.write_bytes(data)
    source = ZipSource(path)
    with pytest.raises(OSError, match="damaged"):
        source.read(0)
    assert source.read(1) == png(2)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("labels", ["names", "numbers"])
def test_list(folder, tmp_path, suffix, labels):
    path = folder / f"list.{suffix}"
    values = [CLASSES[label] if labels == "names" else label for label in LABELS]
    rows = [{"path": f"train/{name}", "label": value} for name, value in zip(ORDER, values, strict=True)]
    if suffix == "csv":
        lines = ["label,path", *(f'{row["label"]},"{row["path"]}"' for row in rows)]
    else:
        lines = map(json.dumps, rows)
    path.write_text("\n".join(lines), encoding="utf-8-sig" if suffix == "csv" else "utf-8")  # as spreadsheets do
    check(ListSource(path, CLASSES))
    names = open_source(path).class_names
    assert names == (CLASSES if labels == "names" else ["0", "1", "2"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: open_source(p / "nowhere"), FileNotFoundError, "does not exist"),
        (lambda p: open_source(p / "data"), ValueError, r"split to be chosen.*\['train', 'val'\]"),
        (lambda p: open_source(p / "data", "test"), ValueError, r"split to be .*\['train', 'val'\].*'test'"),
        (lambda p: open_source(write(p / "x.zip", "no zip")), ValueError, "Expected a zip"),
        (lambda p: open_source(write(p / "x.txt", "")), ValueError, "a folder, a zip, or a list"),
        (lambda p: open_source(write(p / "x.csv", "path,label\na.png,\n")), ValueError, "line 2 of"),
        (lambda p: open_source(write(p / "x.csv", "path,label\n")), ValueError, "at least one image"),
        (lambda p: open_source(write(p / "x.jsonl", '{"path": "a", "label": 1}\n[]')), ValueError, "object in line 2"),
        (lambda p: ListSource(write(p / "x.csv", "path,label\na,dog"), ["cat"]), ValueError, r"\['dog'\]"),
        (lambda p: FolderSource(mkdir(p / "e")), ValueError, "at least one image"),
        (lambda p: FolderSource(mkdir(p / "e/empty").parent), ValueError, "none in .*empty"),
        (lambda p: FolderSource(p / "data/train")[5], IndexError, "below 5"),
    ],
)
def test_errors(folder, tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path)


def write(path, text):
    path.write_text(text)
    return path


def mkdir(path):
    path.mkdir(parents=True)
    return path


def test_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="optional: pip install tfdeit[tfds]")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(3, 4, 3)), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    )
    pixels = np.arange(5 * 36, dtype="uint8").reshape(5, 3, 4, 3)

    def examples():
        return ({"image": image, "label": i % 2} for i, image in enumerate(pixels))

    kinds = {"image": tf.TensorSpec((3, 4, 3), tf.uint8), "label": tf.TensorSpec((), tf.int64)}
    data = tf.data.Dataset.from_generator(examples, output_signature=kinds)
    builder = tfds.dataset_builders.TfDataBuilder(
        name="tiny",
        version="1.0.0",
        split_datasets={"train": data},
        features=features,
        data_dir=tmp_path,
        file_format="array_record",
    )
    builder.download_and_prepare()
    source = TfdsSource(builder)
    assert source.class_names == ["cat", "dog"]
    found = sorted(np.asarray(Image.open(io.BytesIO(source.read(i)))).tobytes() for i in range(5))
    assert found == sorted(image.tobytes() for image in pixels)
    assert [int(source.labels[i]) for i in range(5)] == [sample.label for sample in source]


# ---------------------------------------------------------------------------------------------------- order


def test_each_epoch_has_every_sample_once_over_all_workers():
    for workers in (1, 3, 4):
        shards = [Order(5, worker=w, workers=workers) for w in range(workers)]
        epochs = [np.concatenate([shard.epoch(103, e)[0] for shard in shards]) for e in range(3)]
        assert all(sorted(epoch) == list(range(103)) for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])
        assert [shard.length(103) for shard in shards] == [len(shard.epoch(103, 0)[0]) for shard in shards]
        assert {shard.steps(103, 8) for shard in shards} == {103 // workers // 8}
    assert np.array_equal(Order(None).epoch(7, 3)[0], range(7))


def test_epochs_are_functions_of_seed_and_number():
    assert np.array_equal(Order(5).epoch(1000, 7)[0], Order(5).epoch(1000, 7)[0])
    assert not np.array_equal(Order(5).epoch(1000, 7)[0], Order(6).epoch(1000, 7)[0])


@pytest.mark.parametrize(("count", "workers"), [(1000, 1), (1000, 4), (256, 3), (100, 1)])
def test_repeated_augmentation_is_that_of_deit(count, workers):
    """The rules of DeiT's RASampler, written with lists."""
    permutation = Order(1).epoch(count, 2)[0].tolist()
    repeated = [sample for sample in permutation for _ in range(3)]
    repeated += repeated[: -len(repeated) % workers]
    selected = (count // 256 * 256 if count >= 256 else count) // workers
    for worker in range(workers):
        order = Order(1, repeats=3, worker=worker, workers=workers)
        samples, repetitions = order.epoch(count, 2)
        assert samples.tolist() == repeated[worker::workers][:selected]
        assert order.length(count) == selected
        assert len(set(zip(samples.tolist(), repetitions.tolist(), strict=True))) == selected


def test_seeds_of_samples_differ():
    order, other = Order(1, repeats=3), Order(2)
    seeds = [tuple(order.sample_seed(e, s, r)) for e in range(5) for s in range(200) for r in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert min(min(seed) for seed in seeds) >= 0
    assert tuple(other.sample_seed(0, 0, 0)) not in seeds
    bits = np.unpackbits(np.array(seeds, ">i4").view("uint8").reshape(len(seeds), 8), axis=1)
    share = np.delete(bits, [0, 32], axis=1).mean(axis=0)  # all but the signs
    assert np.abs(share - 0.5).max() < 5 * 0.5 / len(seeds) ** 0.5  # five standard deviations


@pytest.mark.parametrize("options", [{"repeats": 0}, {"worker": 2, "workers": 2}, {"worker": -1}])
def test_impossible_orders(options):
    with pytest.raises(ValueError, match="Expected repeats"):
        Order(**options)
