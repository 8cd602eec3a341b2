"""Torch files written by hand: mapped, and safe whatever the bytes. test_torch_files.py has what torch writes."""

import argparse
import os
import pickle
import time
import zipfile

import numpy as np
import pytest
from torch_by_hand import SIX, literal, named, pickled, storage, tensor, write_torch, write_zip

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.torch_files import LEGACY_MAGIC, read_torch, read_torch_state_dict


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


def test_file_by_hand(path):
    arrays = read_torch(write_torch(path, pickled(tensor(), tensor(1, (2, 2), (1, 2)), tensor(0, (0, 3), (3, 1)))))
    np.testing.assert_array_equal(arrays["key0"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(arrays["key1"], [[1, 3], [2, 4]])
    assert arrays["key2"].shape == (0, 3)


def test_arrays_are_views_of_the_mapped_file(path):
    array = read_torch(write_torch(path, pickled(tensor())))["key0"]
    while isinstance(array.base, np.ndarray):
        assert not array.flags.writeable
        array = array.base
    assert isinstance(array, np.memmap)


# Hostile pickles.


class Exploit:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_no_code_runs(path, tmp_path, function, protocol):
    sentinel = tmp_path / "executed"
    code = f"touch {sentinel}" if function is os.system else f"open({str(sentinel)!r}, 'w').close()"
    payload = pickle.dumps(Exploit(function, code), protocol)
    write_torch(path, payload)
    with pytest.raises(CheckpointError, match=rf"\.{function.__name__}'; nothing was executed"):
        read_torch(path)
    assert not sentinel.exists()
    pickle.loads(payload)  # the exploit works
    assert sentinel.exists()


ONE_KEY = b"]" + literal("0") + b"a"
SIX_COUNTED = (6).to_bytes(8, "little") + SIX.tobytes()


def legacy(body, keys=ONE_KEY, data=SIX_COUNTED, version=1001):
    """A file of torch before 1.6, of the opcodes `body`."""
    header = [literal(version), literal({"protocol_version": 1001, "little_endian": True})]
    return LEGACY_MAGIC + b"".join(b"\x80\x02" + part + b"." for part in (*header, body, keys)) + data


def test_legacy_file_by_hand(path):
    path.write_bytes(legacy(tensor()))
    np.testing.assert_array_equal(read_torch(path), SIX.reshape(2, 3))
    assert isinstance(read_torch(path).base.base, np.memmap)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (legacy(named("os", "system") + literal(("true",)) + b"R"), "global 'os.system'; nothing was executed"),
        (legacy(literal(1), keys=named("builtins", "eval")), "global 'builtins.eval'; nothing was executed"),
        (legacy(tensor(), keys=tensor()), "Expected no storage in this part"),
        (legacy(tensor(data=storage(length=7))), "Expected 6 elements in 28 bytes"),
        (legacy(tensor(data=storage(length=10**12))), "storages only, each of its entry's size"),
        (legacy(tensor(data=storage(length=-6))), "storages only, each of its entry's size"),
        (legacy(tensor(), data=(6).to_bytes(8, "little") + b"1234"), "Expected 6 elements in 24 bytes"),
        (legacy(tensor(), keys=b"]"), "list of the storages that the tensors use"),
        (legacy(tensor(), keys=literal("0")), "list of the storages that the tensors use"),
        (legacy(tensor(), version=1002), "Expected protocol version 1001.*Received: 1002"),
        (legacy(tensor(stride=(4, 1))), "Expected a tensor inside its storage"),
    ],
)
def test_hostile_legacy_file(path, data, message):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_torch(path)


NAMESPACE = named("argparse", "Namespace")
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = named("collections", "OrderedDict")
HOSTILE = {
    "unknown global, never called": named("torch.nn.modules.linear", "Linear") + b"0N",
    "attribute of an allowed module": named("torch._utils", "os.system"),
    "stack global": literal("os") + literal("system") + b"\x93",
    "opcode to instantiate": ORDERED_DICT + b")\x81",
    "opcode to instantiate, old": b"(icollections\nOrderedDict\n",
    "extension registry": b"\x82\x01",
    "namespace with arguments": NAMESPACE + literal(("x",)) + b"\x81",
    "namespace with a list of arguments": NAMESPACE + b"]\x81",
    "namespace with keyword arguments": NAMESPACE + b")" + literal({"x": 1}) + b"\x92",
    "namespace that is called": NAMESPACE + b")R",
    "namespace, old": b"(iargparse\nNamespace\n",
    "namespace, oldest": b"(" + NAMESPACE + b"o",
    "namespace as a tuple": literal(("argparse.Namespace",)) + b")\x81",
    "namespace of a global": NAMESPACE + b")\x81}" + literal("x") + named("os", "system") + b"sb",
    "namespace of a call": NAMESPACE + b")\x81}" + literal("x") + REBUILD + literal(("true",)) + b"Rsb",
    "attributes of the class Namespace": NAMESPACE + literal({"__init__": None}) + b"b",
    "another class of argparse": named("argparse", "ArgumentParser") + b")\x81",
    "attribute of Namespace": named("argparse", "Namespace.__class__") + b")\x81",
    "tensor as a class": tensor() + b")\x81",
    "instance without a class": b")\x81",
    "attributes of a function": REBUILD + literal({"__defaults__": ()}) + b"b",
    "attributes of a tensor": tensor() + literal((1, (6,), None, False, b"x" * 24)) + b"b",
    "call of a tensor": tensor() + b")R",
    "call of a string": literal("os.system") + literal(("true",)) + b"R",
    "call of a storage type": named("torch", "FloatStorage") + literal((10**12,)) + b"R",
    "items of a function": REBUILD + literal("a") + literal(1) + b"s",
    "list methods of a dict": b"}" + literal(1) + b"a",
    "key that is a deep tuple": b"})" + b"\x85" * 200_000 + b"Ns",
    "persistent id of a module": literal(("module", "os", "system")) + b"Q",
    "persistent id that is text": literal("0") + b"Q",
    "persistent id in a persistent id": b"(" + storage() + storage() + b"tQ",
    "storage that is absent": tensor(data=storage("7")),
    "storage outside its folder": tensor(data=storage("../data.pkl")),
    "storage shorter than it says": tensor(data=storage(length=7)),
    "storage longer than it says": tensor(data=storage(length=5)),
    "storage of another kind": tensor(data=storage(kind="ComplexFloatStorage")),
    "tensor as a storage": tensor(data=tensor()),
    "list as a storage": tensor(data=literal([0.0] * 6)),
    "size outside": tensor(size=(2, 4)),
    "stride outside": tensor(stride=(4, 1)),
    "offset outside": tensor(offset=1),
    "offset negative": tensor(offset=-1),
    "stride negative": tensor(offset=5, stride=(-3, -1)),
    "size negative": tensor(size=(-2, -3)),
    "offset large and stride negative": tensor(offset=8, stride=(-3, 1)),
    "stride that overflows 64 bits": tensor(size=(5,), stride=(2**62,)),
    "size that overflows 64 bits": tensor(size=(2**62, 2**62), stride=(0, 0)),
    "empty but immense": tensor(size=(0, 2**63), stride=(1, 1)),
    "more sizes than strides": tensor(size=(2, 3, 1)),
    "fractional size": tensor(size=(2.0, float("nan"))),
    "hundred axes": tensor(size=(1,) * 100, stride=(1,) * 100),
    "memo that is absent": b"h\x07",
    "empty stack": b"000",
    "mark that is absent": b"t",
    "no end": b"N",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickle(path, kind):
    write_torch(path, b"\x80\x02" + HOSTILE[kind] + (b"" if kind == "no end" else b"."))
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_code_runs_in_a_namespace(path, tmp_path, protocol):
    sentinel = tmp_path / "executed"
    payload = pickle.dumps(argparse.Namespace(lr=Exploit(os.system, f"touch {sentinel}")), protocol)
    write_torch(path, payload)
    with pytest.raises(CheckpointError, match="nothing was executed"):
        read_torch(path)
    assert not sentinel.exists()
    pickle.loads(payload)  # the exploit works
    assert sentinel.exists()


def test_large_memo_index_allocates_nothing(path):
    start = time.perf_counter()
    assert read_torch(write_torch(path, b"\x80\x02Nr\xff\xff\xff\xff.")) is None
    assert time.perf_counter() - start < 1


def test_shared_containers_are_read_in_linear_time(path):
    doubled = b"]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(60))  # 2**60 leaves if read as a tree
    start = time.perf_counter()
    assert len(read_torch(write_torch(path, b"\x80\x02" + doubled + b"."))) == 2
    assert time.perf_counter() - start < 1


# Damaged torch files.


def test_every_truncation_of_a_torch_file(path):
    whole = write_torch(path, pickled(tensor())).read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_torch(path)


def test_bit_flips_of_a_torch_file_are_found_or_harmless(path):
    whole = write_torch(path, pickled(tensor())).read_bytes()
    expected, rng, found = SIX.reshape(2, 3), np.random.default_rng(0), 0
    for _ in range(1500):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_torch(path)["key0"], expected)
        except CheckpointError:
            found += 1
    assert found > 700  # the rest are dates and flags that nothing reads


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "Expected one data.pkl"),
        ({"a/data.pkl": pickled(), "b/data.pkl": pickled()}, "Expected one data.pkl.*Received: 2"),
        ({"a/data.pkl": pickled(), "a/byteorder": b"big"}, "Expected little-endian"),
        ({"a/data.pkl": b"PK\x03\x04"}, "Expected a torch checkpoint"),
    ],
)
def test_zip_that_is_no_checkpoint(path, entries, message):
    with pytest.raises(CheckpointError, match=message):
        read_torch(write_zip(path, entries))


def test_compressed_entry(path):
    with pytest.raises(CheckpointError, match="stored uncompressed"):
        read_torch(write_zip(path, {"a/data.pkl": pickled()}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("data", [b"", b"PK", b"<html>404</html>", pickle.dumps({"a": 1})])
def test_file_that_is_no_zip(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="Expected a torch checkpoint in .*download or save it again"):
        read_torch(path)


@pytest.mark.parametrize("value", [b"]", b"}(K\x01" + tensor() + b"u"])
def test_object_that_is_no_state_dict(path, value):
    with pytest.raises(CheckpointError, match="Expected a state dict"):
        read_torch_state_dict(write_torch(path, b"\x80\x02" + value + b"."))
