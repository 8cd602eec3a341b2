"""Pipelines of training: order, resuming, workers; and errors of any pipeline."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from training_data import PLAIN, Files, batches

from tfdeit.data.decoding import decode_crop
from tfdeit.data.loading import Loading, tensor_memory
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.preprocessing.images import Header, ImageError


def test_a_run_is_resumed_exactly(files):
    whole = batches(train_pipeline(files, 8, 24, PLAIN, loading=Loading(threads=1)), 0, 12)
    for values, labels in whole[:2]:
        assert values.shape == (8, 24, 24, 3)
        np.testing.assert_allclose(labels.sum(axis=1), np.ones(8), rtol=1e-6)
    again = batches(train_pipeline(files, 8, 24, PLAIN, loading=Loading(threads=4)), 7, 5)
    for expected, found in zip(whole[7:], again, strict=True):
        assert all(map(np.array_equal, expected, found))
    assert not np.array_equal(whole[0][0], whole[5][0])  # epochs have 5 steps


def test_batches_that_are_kept_stay_as_they_are(files):
    """Memory is used again, but not while somebody has it."""
    pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False)
    kept = [batch["values"][0].numpy() for batch in pipeline.host(0, 30)]
    for step, pixels in enumerate(kept):
        (again,) = pipeline.host(step, 1)
        assert np.array_equal(pixels, again["values"][0])
    array = tensor_memory((3000, 1001), "float32")
    address = array.ctypes.data
    assert address % 64 == 0
    assert tensor_memory((3000, 1000), "float32").ctypes.data != address
    del array
    assert tensor_memory((3000, 1001), "float32").ctypes.data == address


@pytest.mark.slow
def test_the_whole_recipe_is_resumed_exactly(files):
    """With every augmentation, mixing and repetition, on any number of threads; epochs go on without a seam."""
    order = Order(1, repeats=3)
    whole = batches(train_pipeline(files, 8, 32, order=order, loading=Loading(threads=1)), 0, 8)
    assert whole[0][0].shape == (8, 32, 32, 3)
    assert whole[0][1].shape == (8, 40)
    pipeline = train_pipeline(files, 8, 32, order=order)
    for start in (3, 7):
        for expected, found in zip(whole[start:], batches(pipeline, start, 8 - start), strict=True):
            assert all(map(np.array_equal, expected, found))
    assert not np.array_equal(whole[0][0], whole[5][0])  # epochs have 5 steps


def test_resuming_does_not_read_what_came_before(files):
    read = []
    files.read, original = lambda index: read.append(index) or original(index), files.read
    pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False)
    labels = batches(pipeline, 10**6 + 9, 1)[0][1]
    assert set(labels) <= set(read)
    assert len(read) < 40


def test_workers_share_an_epoch(files):
    seen = []
    for worker in range(3):
        pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False, order=Order(2, worker=worker, workers=3))
        assert pipeline.steps_per_epoch == 3
        seen += np.concatenate([labels for _, labels in batches(pipeline, 0, 3)]).tolist()
    assert len(seen) == len(set(seen)) == 36
    seen = []
    for worker in range(3):
        pipeline = eval_pipeline(files, 4, "vit", 16, order=Order(None, worker=worker, workers=3))
        seen += np.concatenate([labels.numpy() for _, labels in pipeline.dataset()]).tolist()
    assert sorted(seen) == list(range(40))


# -------------------------------------------------------------------------------------------------- errors


@pytest.fixture
def broken(files):
    paths = [Path(files.paths[i]) for i in (3, 17, 28)]
    paths[0].write_bytes(b"")
    paths[1].write_text("no image")
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[: len(data) // 2])
    return paths


@pytest.mark.parametrize("make", [lambda f, o: eval_pipeline(f, 8, "vit", 16, loading=o),
                                  lambda f, o: train_pipeline(f, 8, 16, PLAIN, mix=False, loading=o)])  # fmt: skip
def test_errors_name_the_file(files, broken, make, tmp_path):
    with pytest.raises(tf.errors.OpError, match=rf"({'|'.join(map(str, broken))}): .*on_error='skip'"):
        for _ in make(files, None).dataset(0, 5):
            pass
    pipeline = make(files, Loading(on_error="skip"))
    labels = np.concatenate([labels.numpy() for _, labels in pipeline.dataset(0, 5)]).tolist()
    good = set(range(40)) - {3, 17, 28}
    assert set(labels) == good
    assert pipeline.write_failures(tmp_path / "failures.jsonl") == 3
    lines = list(map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines()))
    assert [line["index"] for line in lines] == [3, 17, 28]
    assert [line["name"] for line in lines] == list(map(str, broken))
    assert lines[0]["reason"] == "the file is empty"


def test_a_skipped_image_of_training_is_replaced(files, broken):
    pipeline = train_pipeline(files, 8, 16, PLAIN, mix=False, loading=Loading(on_error="skip"))
    found = batches(pipeline, 0, 10)
    assert all(len(labels) == 8 for _, labels in found)
    again = batches(pipeline, 7, 3)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found[7:], again, strict=True))


def test_nothing_to_read(tmp_path):
    source = Files([tmp_path / "missing.png"] * 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image of a batch"):
        next(iter(train_pipeline(source, 2, 16, PLAIN, loading=Loading(on_error="skip")).dataset()))
    for resize_on in ("host", "device"):
        pipeline = eval_pipeline(source, 2, "vit", 16, loading=Loading(on_error="skip", resize_on=resize_on))
        assert list(pipeline.dataset()) == []
        assert {failure.reason for failure in pipeline.failures} == {"No such file or directory"}


def test_what_is_refused(files):
    with pytest.raises(ValueError, match="at least one batch on every worker.*40 images, batch_size=41"):
        train_pipeline(files, 41)
    with pytest.raises(ValueError, match="Expected a step from 0 to 10"):
        eval_pipeline(files, 4, "vit").dataset(11)
    for options in ({"on_error": "ignore"}, {"threads": 0}, {"resize_on": "gpu"}):
        with pytest.raises(ValueError, match="Expected"):
            Loading(**options)
    with pytest.raises(ImageError):
        decode_crop(b"\xff\xd8", Header("JPEG", "RGB", 1, 1), 0, 0, 1, 1)


@pytest.mark.slow
def test_python_ends_while_a_pipeline_runs(files):
    """The iterator is alive at exit, and its threads are busy."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from training_data import PLAIN, Files\n"
        "from tfdeit.data.pipeline import train_pipeline\n"
        "iterator = iter(train_pipeline(Files(sys.argv[2:]), 8, 224, PLAIN, mix=False).dataset()); next(iterator)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[1]), *map(str, files.paths)], check=True, timeout=120
    )
