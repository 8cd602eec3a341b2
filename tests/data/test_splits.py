"""Which images train and which evaluate."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfdeit.data.records import pack
from tfdeit.data.sources import FolderSource
from tfdeit.data.splits import open_splits, split_by_class


def make(folder, **counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / name / f"{i:02}.png")
    return folder


def test_a_fifth_of_each_class(tmp_path):
    source = FolderSource(make(tmp_path, cat=17, dog=2, elk=1))
    train, test = split_by_class(source)
    assert np.bincount(train.labels).tolist() == [14, 1, 1]
    assert np.bincount(test.labels, minlength=3).tolist() == [3, 1, 0]
    names = [part.name(i) for part in (train, test) for i in range(len(part))]
    assert sorted(names) == [source.name(i) for i in range(len(source))]
    assert train[0].data == Path(train.name(0)).read_bytes()
    again, other = (
        [part.name(i) for i in range(4)] for part in (split_by_class(source)[1], split_by_class(source, seed=1)[1])
    )
    assert again == [test.name(i) for i in range(4)] != other


def test_splits_of_folders_zips_and_records(tmp_path):
    for split, count in (("train", 3), ("test", 2), ("val", 1)):
        make(tmp_path / "data" / split, cat=count, dog=count)
        pack(FolderSource(tmp_path / "data" / split), tmp_path / "packed" / split)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    for name in ("data", "data.zip", "packed"):
        train, test, how = open_splits(tmp_path / name)
        assert (len(train), len(test)) == (6, 2)  # val comes before test
        assert f"{name}/val" in how
    train, test, how = open_splits(tmp_path / "data.zip", tmp_path / "packed" / "test")
    assert (len(train), len(test)) == (6, 4)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"data/train/cat/{i:02}.png,cat\n" for i in range(3)))
    assert [len(part) for part in open_splits(tmp_path / "list.csv")[:2]] == [2, 1]


def test_a_plain_folder(tmp_path):
    train, test, how = open_splits(make(tmp_path / "photos", cat=5, dog=5))
    assert (len(train), len(test)) == (8, 2)
    assert "a fifth of each class is taken" in how


def test_what_cannot_be(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_splits(tmp_path / "absent")
    with pytest.raises(ValueError, match="a split named train"):
        open_splits(make(tmp_path / "data" / "val", cat=2).parent)
    with pytest.raises(ValueError, match="at least two images of a class"):
        open_splits(make(tmp_path / "single", cat=1, dog=1))
    with pytest.raises(ValueError, match=r"\['elk'\] only to train on, \['dog'\] only to evaluate on"):
        open_splits(make(tmp_path / "a", cat=2, elk=2), make(tmp_path / "b", cat=2, dog=2))
