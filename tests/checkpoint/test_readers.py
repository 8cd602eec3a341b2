"""Readers of safetensors and directories: lazy, and safe whatever the bytes."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_by_hand import SIX, pickled, tensor, write_torch

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.readers import read_safetensors, read_weights

# Safetensors.


def safetensors_bytes(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool"])
def test_safetensors_dtypes(tmp_path, dtype):
    expected = (np.arange(12).reshape(3, 4) % 5).astype(getattr(ml_dtypes, dtype, dtype))
    save_file({"a": expected}, tmp_path / "a.safetensors")
    received = read_safetensors(tmp_path / "a.safetensors")["a"]
    assert (received.shape, received.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(np.asarray(received), expected, strict=True)
    np.testing.assert_array_equal(np.asarray(received, "float64"), expected.astype("float64"), strict=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        safetensors_bytes(b"{"),
        safetensors_bytes(b"\xff\xfe"),
        safetensors_bytes({"a": entry([2], 0, 8)}, b"1234"),
        safetensors_bytes({"a": entry([2], 0, 8)}, b"123456789"),
        safetensors_bytes({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"123456789012"),
        safetensors_bytes({"a": entry([2], 8, 0)}, b"12345678"),
        safetensors_bytes({"a": entry([-2], 0, 8)}, b"12345678"),
        safetensors_bytes({"a": entry([2**62, 4], 0, 8)}, b"12345678"),
        safetensors_bytes({"a": entry([1], 0, 8, "X9")}, b"12345678"),
        safetensors_bytes({"a": entry([8], 0, 8, "F8_E4M3")}, b"12345678"),
    ],
)
def test_damaged_safetensors(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="safetensors"):
        read_safetensors(path)


def test_mutations_of_a_safetensors_file(tmp_path):
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    save_file({"a": np.ones((2, 3), "float32"), "b": np.ones(4, "float16")}, path)
    whole, found = path.read_bytes(), 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for array in read_safetensors(path).values():
                assert np.asarray(array).shape == array.shape
        except CheckpointError:
            found += 1
    assert found > 200


# Directories.


def test_order_of_preference(tmp_path):
    write_torch(tmp_path / "pytorch_model.bin", pickled(tensor()))
    assert read_weights(tmp_path).keys() == {"key0"}
    save_file({"a": SIX}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path).keys() == {"a"}


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "Expected model.safetensors.* or pytorch_model.bin.*Received: nothing"),
        (["config.json", "weights.npz"], "Received: config.json, weights.npz"),
        (["tf_model.h5"], "tf_model.h5. Convert the TensorFlow weights: tfdeit port .* -o OUT"),
        (["flax_model.msgpack"], "Flax weights are not read"),
    ],
)
def test_directory_without_weights(tmp_path, present, message):
    for file in present:
        (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path)


def write_shards(directory, weight_map):
    save_file({"a": SIX, "b": SIX + 1}, directory / "model-1.safetensors")
    save_file({"c": SIX + 2}, directory / "model-2.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(tmp_path):
    write_shards(tmp_path, {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"})
    arrays = read_weights(tmp_path)
    assert arrays.keys() == {"a", "b", "c"}
    np.testing.assert_array_equal(np.asarray(arrays["c"]), SIX + 2)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, "Missing: none. Unexpected: b"),
        ({"c": "model-2.safetensors", "d": "model-2.safetensors"}, "Missing: d. Unexpected: none"),
        ({"c": "model-3.safetensors"}, "model-3.safetensors.*no such file"),
        ({"c": "../model-2.safetensors"}, "names of files beside"),
        ({"c": "/etc/passwd"}, "names of files beside"),
        ({"c": "..\\model-2.safetensors"}, "names of files beside"),
        ({"c": ".."}, "names of files beside"),
        ({"c": ["model-2.safetensors"]}, "no such file"),
        ({"c": {}}, "no such file"),
        ("model-2.safetensors", "weight_map"),
        (None, "weight_map"),
    ],
)
def test_faulty_index(tmp_path, weight_map, message):
    write_shards(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path)


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_index_that_is_no_index(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(CheckpointError, match="weight_map"):
        read_weights(tmp_path)
