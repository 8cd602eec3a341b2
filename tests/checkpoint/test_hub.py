"""Checkpoints by name, from a hub on this machine."""

import dataclasses
import json
import socket
import sys

import numpy as np
import pytest
from checkpoints import TINY
from web import publish

import tfdeit
from tfdeit import zoo
from tfdeit.checkpoint import CheckpointError, download
from tfdeit.checkpoint.files import find_directory
from tfdeit.checkpoint.hub import fetch
from tfdeit.preprocessing.processors import protocol_processor

huggingface_hub = pytest.importorskip("huggingface_hub", reason="pip install tfdeit[hub]")


@pytest.fixture
def offline(monkeypatch):
    def go():
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    return go


def fetched(hub):
    return [path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def test_any_name_of_a_row_loads_from_the_hub(hub, micro, rng):
    model, files = micro
    publish(hub, TINY, {**files, "tf_model.h5": b"", "pytorch_model.bin": b"", "README.md": b""})
    pixel_values = rng.normal(size=(1, 32, 32, 3)).astype("float32")
    for name in zoo.find(TINY).names[:3]:
        loaded = tfdeit.TFDeiTForImageClassificationWithTeacher.from_pretrained(name)
        np.testing.assert_array_equal(loaded(pixel_values).logits, model(pixel_values).logits)
        assert tfdeit.AutoImageProcessor.from_pretrained(name).crop_size == {"height": 32, "width": 32}
    assert sorted(fetched(hub)) == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_repositories_that_are_not_in_the_zoo(hub, micro):
    publish(hub, "someone/my.net-1", micro[1])
    directory = fetch("someone/my.net-1")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == micro[1]
    assert find_directory("someone/my.net-1") == directory


def test_pickled_and_sharded_weights(hub):
    publish(hub, TINY, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    assert sorted(path.name for path in fetch(TINY).iterdir()) == ["config.json", "pytorch_model.bin"]
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    shards = {"model-1.safetensors": b"1", "model-2.safetensors": b"2"}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    publish(hub, "someone/large", files)
    assert {path.name: path.read_bytes() for path in fetch("someone/large").iterdir()} == files


def test_the_token_is_sent(hub, micro, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    publish(hub, TINY, micro[1])
    fetch(TINY)
    sent = [headers.get("authorization") for method, path, headers in hub.requests if "/resolve/" in path]
    assert set(sent) == {"Bearer hf_secret"}


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": "../../../x"}}'])
def test_damaged_index(hub, index):
    publish(hub, "someone/large", {"config.json": b"{}", "model.safetensors.index.json": index})
    with pytest.raises(CheckpointError, match="Expected a well-formed repository 'someone/large' on the hub"):
        fetch("someone/large")


def test_invalid_id(hub):
    with pytest.raises(CheckpointError, match="Expected a well-formed repository 'a--b/c' on the hub"):
        fetch("a--b/c")
    assert hub.requests == []


def test_offline_the_cache_is_enough(hub, micro, offline):
    files = {name: content for name, content in micro[1].items() if name != "preprocessor_config.json"}
    publish(hub, TINY, files)
    directory = fetch(TINY)
    count = len(hub.requests)
    offline()
    assert fetch(TINY) == directory
    assert len(hub.requests) == count


def test_offline_without_cache_says_what_to_put_where(hub, offline):
    offline()
    with pytest.raises(CheckpointError) as error:
        tfdeit.TFDeiTModel.from_pretrained(TINY)
    files = f"config.json, preprocessor_config.json and model.safetensors of {hub.url}/{TINY}/tree/main"
    assert f"put {files} into a directory, and pass that" in str(error.value)


def test_a_cache_without_weights_is_not_enough(hub, micro, offline):
    publish(hub, TINY, micro[1])
    huggingface_hub.hf_hub_download(TINY, "config.json", endpoint=hub.url)
    offline()
    with pytest.raises(CheckpointError, match="in the hub's cache, or a network"):
        fetch(TINY)


def test_a_broken_connection_is_resumed(hub, micro, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    publish(hub, TINY, micro[1])
    hub.mischief = [None, "drop"]
    directory = fetch(TINY)
    assert (directory / "model.safetensors").read_bytes() == micro[1]["model.safetensors"]


def test_a_mistyped_path_is_not_asked_for(hub, micro, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(CheckpointError, match="Received: 'models/deit', which does not: models is a directory here"):
        find_directory("models/deit")
    for name in ("weights/deit.pth", "weights/model.safetensors", "weights/vit.npz"):
        with pytest.raises(CheckpointError, match=f"'{name}', which does not: it ends like a file name"):
            tfdeit.port(name, tmp_path / "out")
    with pytest.raises(CheckpointError, match="'models/deit', which does not: models is a directory"):
        tfdeit.TFDeiTModel.from_pretrained("models/deit")
    assert hub.requests == []
    (tmp_path / "facebook").mkdir()  # a name of the zoo is no typo
    publish(hub, TINY, micro[1])
    assert (find_directory(TINY) / "config.json").is_file()


def test_nobody_answers(hub, micro, monkeypatch):
    """As without a network: one attempt, and an error that names both possibilities; what is cached still loads."""
    publish(hub, TINY, micro[1])
    fetch(TINY)
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    with pytest.raises(CheckpointError, match="Received: 'some/body': there is no such path, and the hub does not ans"):
        find_directory("some/body")
    assert (fetch(TINY) / "model.safetensors").is_file()


def test_a_silent_hub_is_not_waited_for(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(CheckpointError, match="the hub does not answer .*timed out"):
            find_directory("some/body")


def test_what_is_not_there(hub):
    with pytest.raises(
        CheckpointError, match="'x/no-such-model', which is none of these, or is private and needs a token"
    ):
        find_directory("x/no-such-model")
    publish(hub, TINY, {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"Expected config\.json and model\.safetensors or pytorch_model\.bin in"):
        fetch(TINY)
    for name in ("deit_tiny", "a/b/c", "../hub", "/net", "x/y z", "https://example.com/net.pth"):
        with pytest.raises(ValueError, match="Expected the name of a checkpoint of the zoo"):
            fetch(name)
        with pytest.raises(CheckpointError, match="Expected the directory of a checkpoint"):
            find_directory(name)


def test_errors_of_the_server(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    publish(hub, TINY, {"config.json": b"{}", "model.safetensors": b"x"})
    hub.mischief = [403] * 9
    with pytest.raises(CheckpointError, match="Expected to download"):
        fetch(TINY)


def test_without_huggingface_hub(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install tfdeit\[hub\]"):
        fetch(TINY)


def test_publishers_files(hub, tmp_path, monkeypatch):
    """A row's own file by its URL or file name, and rows that have nothing else."""
    calls = []
    (tmp_path / "net.pth").write_bytes(b"x")
    monkeypatch.setattr("tfdeit.checkpoint.hub.download", lambda *args: calls.append(args) or tmp_path / "net.pth")
    row = zoo.find("deit_tiny_patch16_224")
    for name in row.file_names:
        assert fetch(name) == tmp_path / "net.pth"
    assert calls == [(row.url, "a1311bcf")] * 2
    row = zoo.find("deit-tiny_4xb256_in1k")
    fetch(row.name)
    assert calls[-1] == (row.url, "13b382a0")


@pytest.mark.parametrize(
    ("name", "to", "deit3"),
    [
        ("deit-tiny-distilled_3rdparty_in1k", "mmpretrain", {}),
        ("deit3_small_patch16_224", "fb", {"layerscale_value": 0.5, "no_embed_class": True}),
    ],
)
def test_a_publishers_file_is_ported_once(name, to, deit3, tmp_path, monkeypatch, rng):
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    row = zoo.find(name)
    # A small model under that name; fields that no shape tells differ from all defaults.
    untold = {"layer_norm_eps": 1e-3, "hidden_act": "relu"}
    fields = {**size, **deit3, **untold, "image_size": 32, "patch_size": 8, "encoder_stride": 8, "num_labels": 5}
    row = dataclasses.replace(row, architecture=fields)
    monkeypatch.setitem(zoo.BY_NAME, name, row)
    config = row.config()
    distilled = config.model_type == "deit"
    cls = tfdeit.TFDeiTForImageClassificationWithTeacher if distilled else tfdeit.TFViTForImageClassification
    model = cls(config)
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "cache" / "net.pth"
    file.parent.mkdir()
    tfdeit.port(tmp_path / "model", file, to)
    monkeypatch.setattr("tfdeit.checkpoint.hub.download", lambda url, sha256: file)

    ported = cls.from_pretrained(name)
    pixel_values = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(ported(pixel_values).logits, model(pixel_values).logits, atol=1e-6)
    written = (file.parent / "net.pth.ported" / "model.safetensors").stat().st_mtime_ns
    found = tfdeit.get_model(name)
    assert (file.parent / "net.pth.ported" / "model.safetensors").stat().st_mtime_ns == written
    expected = protocol_processor(row.protocol, 32)
    assert found.image_processor.to_dict() == expected.to_dict()
    stored = tfdeit.ViTConfig.from_dict if not distilled else tfdeit.DeiTConfig.from_dict
    values = json.loads((file.parent / "net.pth.ported" / "config.json").read_text())
    assert stored(values).replace(extra={}) == config
    assert values["tfdeit_provenance"]["checkpoint"] == json.loads(json.dumps(row.to_dict()))


def test_download_is_the_real_one():
    assert fetch.__globals__["download"] is download.download
