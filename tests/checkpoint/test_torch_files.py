"""Files that torch wrote are read as torch reads them."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.torch_files import read_torch, read_torch_state_dict, read_wrapped_state_dict


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the oracle of torch files")


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
)
def test_torch_dtypes(torch, path, dtype):
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 50
    expected = {"matrix": values.to(getattr(torch, dtype)), "scalar": values[0, 0].to(getattr(torch, dtype))}
    torch.save(expected, path)
    received = read_torch_state_dict(path)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        assert received[name].dtype.name == dtype
        assert received[name].shape == tuple(value.shape)
        assert received[name].tobytes() == value.flatten().view(torch.uint8).numpy().tobytes()


def test_torch_views_and_parameters(torch, path):
    base = torch.arange(60.0).reshape(3, 4, 5)
    expected = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 1:4],
        "expanded": base[0, 0].expand(4, 5),
        "diagonal": base[0].diagonal(),
        "parameter": torch.nn.Parameter(base[2]),
        "empty": base[:0],
    }
    torch.save(OrderedDict(expected), path)
    received = read_torch_state_dict(path)
    assert path.stat().st_size < 2 * base.nbytes + 5000  # the views share one storage in the file
    for name, value in expected.items():
        np.testing.assert_array_equal(received[name], value.detach().numpy(), strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_module_and_pickle_protocols(torch, path, protocol):
    expected = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()  # has _metadata
    torch.save(expected, path, pickle_protocol=protocol)
    received = read_torch_state_dict(path)
    assert type(received) is dict
    for name, value in expected.items():
        np.testing.assert_array_equal(received[name], value.numpy(), strict=True)


def test_containers_around_a_state_dict(torch, path):
    torch.save({"model": {"a": torch.ones(2)}, "epoch": 3, "args": (1.5, None, [True])}, path)
    received = read_torch(path)
    np.testing.assert_array_equal(received.pop("model")["a"], [1, 1])
    assert received == {"epoch": 3, "args": (1.5, None, [True])}
    with pytest.raises(CheckpointError, match="top-level keys args, epoch, model; .*Save the state dict alone"):
        read_torch_state_dict(path)


@pytest.mark.parametrize("legacy_format", [False, True])
def test_checkpoint_of_a_training_run(torch, path, legacy_format):
    """What Facebook's main.py saves: the model's weights are read, what is beside them is not."""
    model = torch.nn.Linear(3, 2)
    average = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(lr=5e-4, betas=(0.9, 0.999), device="cuda", inner=argparse.Namespace(deep=[1, None]))
    values = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 299, "model_ema": average}
    values |= {"lr_scheduler": {"base_values": [5e-4], "t_in_epochs": True}, "scaler": {"scale": 65536.0}}
    torch.save(values | {"args": args}, path, _use_new_zipfile_serialization=not legacy_format)
    received = read_wrapped_state_dict(path)
    assert received.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(received[name], tensor, strict=True)
    whole = read_torch(path)
    assert whole["args"] == {}
    np.testing.assert_array_equal(whole["model_ema"]["bias"], average["bias"])
    assert whole["optimizer"]["param_groups"][0]["params"] == [0, 1]


def test_averaged_weights_alone_are_not_taken_for_the_model(torch, path):
    torch.save({"model_ema": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1.0)}, path)
    with pytest.raises(CheckpointError, match="top-level keys args, model_ema; .*Save the state dict alone"):
        read_wrapped_state_dict(path)


def test_file_without_checksums(torch, path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read_torch(path)["a"], [0, 1, 2])
