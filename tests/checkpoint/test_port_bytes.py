"""Files to port from are recognised by their contents, mapped instead of read, and harmless whatever their bytes."""

import io
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from checkpoints import our_model, timm_file
from references import OVERRIDES
from safetensors.numpy import save_file

import tfdeit
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.fit import variable_shapes
from tfdeit.checkpoint.formats import FORMAT_OF, format_rules
from tfdeit.checkpoint.port import open_source, port
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.rules import from_keras


def test_any_file_is_known_by_its_contents(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "download")
    assert open_source(tmp_path / "download", **OVERRIDES).format == "timm"
    for data in (b"", b"<html>404", b"\x00" * 100):
        (tmp_path / "b").write_bytes(data)
        with pytest.raises(CheckpointError, match="Expected a checkpoint in"):
            read_any(tmp_path / "b")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}]), "Expected numbers in a. Received: object; nothing was unpickled"),
        (np.zeros(2, "f4,i4"), "Expected numbers in a"),
    ],
)
def test_npz_of_other_than_numbers(tmp_path, array, message):
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(CheckpointError, match=message):
        read_any(tmp_path / "a.npz")


def test_npz_header_that_is_larger_than_its_data(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
            archive.writestr("a.npy", file.getvalue() + b"1234")
        with pytest.raises(CheckpointError, match="Expected a to hold an array of shape"):
            read_any(tmp_path / "a.npz")


def test_npz_in_fortran_order(tmp_path):
    expected = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "a.npz", a=expected)
    np.testing.assert_array_equal(read_any(tmp_path / "a.npz")[0]["a"], expected)


def hdf5_of(kind, path):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["a"] = np.ones(4)
    with h5py.File(path, "w") as file:
        match kind:
            case "external link":
                file["a"] = h5py.ExternalLink("other.h5", "a")
            case "soft link":
                file["a"] = h5py.SoftLink("/b")
            case "virtual":
                layout = h5py.VirtualLayout((4,), "f8")
                layout[:] = h5py.VirtualSource(path.with_name("other.h5"), "a", (4,))
                file.create_virtual_dataset("a", layout)
            case "external storage":
                file.create_dataset("a", (4,), "f8", external=[(str(path.with_name("raw")), 0, 32)])
            case "compressed":
                file.create_dataset("a", data=np.ones(100), compression="gzip")
            case "never written":
                file.create_dataset("a", (2**40,), "f4")
            case "chunked and immense":
                file.create_dataset("a", (2**40,), "f4", chunks=(1024,))
            case "text":
                file["a"] = ["a", "b"]
            case "references":
                file.create_dataset("a", data=[file.ref], dtype=h5py.ref_dtype)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("external link", "soft link", "virtual", "external storage", "compressed", "never written"),
        *("chunked and immense", "text", "references"),
    ],
)
def test_hostile_hdf5(tmp_path, kind):
    with pytest.raises(CheckpointError, match="Expected (no links|numbers|a to be stored in one uncompressed piece)"):
        read_any(hdf5_of(kind, tmp_path / "a.weights.h5"))


def test_hdf5_that_contains_itself(tmp_path):
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        group = file.create_group("group")
        for name in "abc":
            group[name] = file["/"]  # hard links: endless if followed as a tree
        file["a"] = np.ones(3)
    assert len(read_any(tmp_path / "a.weights.h5")[0]) == 1


def test_arrays_are_views_of_the_mapped_file(tmp_path):
    model = our_model("ViTModel", num_hidden_layers=0)
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    for file in ("a.keras", "a.weights.h5", "a.npz"):
        for array in read_any(tmp_path / file)[0].values():
            while isinstance(array.base, np.ndarray):
                assert not array.flags.writeable
                array = array.base
            assert isinstance(array, np.memmap)


def test_keras_file_of_another_library(tmp_path):
    import keras

    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "a.keras")
    with pytest.raises(CheckpointError, match="Expected a model of tfdeit. Received: "):
        read_any(tmp_path / "a.keras")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".weights.h5"])
def test_peak_memory_is_below_1_3_times_the_tensors(tmp_path, suffix):
    """For a model of 200 MB, not counting what the interpreter and the libraries need."""
    config = tfdeit.ViTConfig(hidden_size=768, num_hidden_layers=7, num_labels=1000)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in variable_shapes(config, {"classifier"}).items()
    }
    first, to = (
        FORMAT_OF["Keras"],
        {".safetensors": "timm", ".pth": "fb", ".npz": "npz", ".weights.h5": "keras"}[suffix],
    )
    save_file(dict(from_keras(format_rules(first, config, "backbone/"), tensors)), tmp_path / "a.safetensors")
    port(tmp_path / "a.safetensors", tmp_path / f"b{suffix}", to=to)
    script = """if True:
        import sys
        from tfdeit.checkpoint.port import port
        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        before = peak()
        port(sys.argv[1], sys.argv[2])
        print(peak() - before)
    """
    command = [sys.executable, "-c", script, tmp_path / f"b{suffix}", tmp_path / "out"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak < 1.3 * sum(tensor.nbytes for tensor in tensors.values())
