"""A seeded fuzz of every format: a damaged file is an error of ours or harmless, quickly and in little memory."""

import argparse
import resource
import time

import h5py
import numpy as np
import pytest
import references as ref
from safetensors.numpy import save_file

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import open_source
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.torch_files import LEGACY_MAGIC, write_torch

MUTATIONS = 10_000
TENSORS = {"a": np.arange(12, dtype="f4").reshape(3, 4), "b/c": np.ones(5, "f2"), "d": np.zeros((2, 1, 2), "f4")}


def write_legacy_torch(path):
    torch = pytest.importorskip("torch", reason="writes the format before torch 1.6")
    values = {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}
    torch.save({"model": values}, path, _use_new_zipfile_serialization=False)


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        for name, tensor in TENSORS.items():
            file[name] = tensor
        file["d"].attrs["dtype"] = "bfloat16"


def write_npz(path, save):
    with path.open("wb") as file:
        save(file, **TENSORS)


def write_training_torch(path):
    torch = pytest.importorskip("torch", reason="writes argparse.Namespace into a torch file")
    values = {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}
    torch.save({"model": values, "args": argparse.Namespace(lr=0.1, name="x"), "epoch": 3}, path)


WRITERS = {
    "safetensors": lambda path: save_file(TENSORS, path),
    "torch": lambda path: write_torch(path, {"model": TENSORS}),
    "torch of a training run": write_training_torch,
    "torch before 1.6": write_legacy_torch,
    "npz": lambda path: write_npz(path, np.savez),
    "compressed npz": lambda path: write_npz(path, np.savez_compressed),
    "HDF5": write_hdf5,
}


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits, overwrites bytes with boundary values, cuts, repeats, or does several of these."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        position = int(rng.integers(max(len(data), 1)))
        match rng.integers(6):
            case 0 if data:
                data[position % len(data)] ^= 1 << int(rng.integers(8))
            case 1:
                value = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
                data[position : position + int(rng.choice([1, 2, 4, 8]))] = bytes([value]) * 8
            case 2:
                data[position:] = b""
            case 3:
                data[position:position] = data[position : position + int(rng.integers(1, 64))]
            case 4:
                data[position : position + int(rng.integers(1, 16))] = b""
            case _:
                data[position : position + 1] = bytes([int(rng.integers(256))])
    return bytes(data)


def read_all(path):
    for array in read_any(path)[0].values():
        assert np.asarray(array).shape == tuple(array.shape)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools', of a string's text
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("count", [200, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_mutations(tmp_path, kind, count):
    path, rng, found, slowest = tmp_path / "checkpoint", np.random.default_rng(0), 0, 0.0
    WRITERS[kind](path)
    read_all(path)
    whole = path.read_bytes()
    assert kind != "torch before 1.6" or whole.startswith(LEGACY_MAGIC)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.unlink()  # mapped files must not change
        path.write_bytes(mutate(whole, rng))
        start = time.perf_counter()
        try:
            read_all(path)
        except CheckpointError:
            found += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert found > 0.3 * count  # the rest are values and padding
    assert slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB


@pytest.mark.slow
def test_mutations_of_a_whole_model(tmp_path):
    """Names, shapes and values of a model: damage that can be read is refused by the comparison."""
    path, rng, found = tmp_path / "a.safetensors", np.random.default_rng(0), 0
    save_file(ref.random_tensors(ref.torch_shapes(ref.TIMM, False)), path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[int(rng.integers(header))] = int(rng.integers(256))
        path.unlink()
        path.write_bytes(damaged)
        try:
            for variable in open_source(path, **ref.OVERRIDES).variables.values():
                np.asarray(variable)
        except CheckpointError:
            found += 1
    assert found > 900
