"""Porting: every format in and out, exactly; against plain numpy, torch, transformers and Keras; or one error."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import references as ref
import safetensors
from conftest import ROOT
from references import IMAGES, MMPRETRAIN, OVERRIDES, TIMM, random_tensors, torch_shapes, write_tf_model
from safetensors.numpy import load_file, save_file

import tfdeit
from tfdeit import zoo
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.big_vision import read_tower
from tfdeit.checkpoint.files import named_variables
from tfdeit.checkpoint.fit import variable_shapes
from tfdeit.checkpoint.formats import FORMAT_OF, FORMATS, format_rules
from tfdeit.checkpoint.port import TARGETS, open_source, port
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.rules import from_keras, to_keras
from tfdeit.checkpoint.torch_files import read_torch, write_torch
from tfdeit.cli import TARGETS as CLI_TARGETS
from tfdeit.cli import main
from tfdeit.processing import protocol_processor

SUFFIXES = {"hf": "", "timm": ".safetensors", "fb": ".pth", "mmpretrain": ".pth", "npz": ".npz", "keras": ".weights.h5"}
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
    "encoder_stride": 4,
    "num_labels": 5,
}
ALL_CLASSES = [
    *("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling", "DeiTModel", "DeiTForImageClassification"),
    *("DeiTForImageClassificationWithTeacher", "DeiTForMaskedImageModeling"),
]


def timm_file(path, distilled=False, names=TIMM, seed=0, change=lambda tensors: None):
    tensors = random_tensors(torch_shapes(names, distilled), seed)
    change(tensors)
    save_file(tensors, path)
    return tensors


def load(source, directory):
    return getattr(tfdeit, f"TF{source.architecture}").from_pretrained(directory)


def our_model(class_name, **changes):
    config_class = tfdeit.DeiTConfig if class_name.startswith("DeiT") else tfdeit.ViTConfig
    model = getattr(tfdeit, f"TF{class_name}")(config_class(**CONFIG | changes))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


# Against plain numpy.


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("names", [TIMM, MMPRETRAIN], ids=["timm", "mmpretrain"])
def test_torch_names_give_the_logits_of_numpy(tmp_path, names, distilled):
    tensors = timm_file(tmp_path / "a.safetensors", distilled, names)
    source = port(tmp_path / "a.safetensors", tmp_path / "out", **OVERRIDES)
    assert source.config.layer_norm_eps == 1e-6
    assert source.config.num_params == sum(tensor.size for tensor in tensors.values())
    logits = load(source, tmp_path / "out")(IMAGES).logits
    np.testing.assert_allclose(logits, ref.torch_forward(tensors, names, distilled), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "big_vision"), [("", False), ("params/", False), ("opt/target/", False), ("", True), ("params/", True)]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_google_names_give_the_logits_of_numpy(tmp_path, prefix, big_vision, save):
    tensors = random_tensors(ref.google_shapes(prefix, big_vision))
    save(tmp_path / "a.npz", **tensors)
    source = port(tmp_path / "a.npz", tmp_path / "out")  # the number of heads is in the shapes
    assert source.format == ("Big Vision npz" if big_vision else "Google npz")
    logits = load(source, tmp_path / "out")(IMAGES).logits
    np.testing.assert_allclose(logits, ref.google_forward(tensors, prefix, big_vision), rtol=0, atol=1e-4)


def stack_blocks(tensors):
    """As Big Vision's `scan=True` has them: a variable of all blocks is one array, with blocks on its first axis."""
    stacked = {name: tensor for name, tensor in tensors.items() if "/encoderblock_" not in name}
    for name in tensors:
        if "/encoderblock_0/" in name:
            blocks = [tensors[name.replace("_0/", f"_{i}/", 1)] for i in range(ref.DEPTH)]
            stacked[name.replace("/encoderblock_0/", "/encoderblock/")] = np.stack(blocks)
    return stacked


TEXT = {"params/txt/Embed_0/embedding": np.ones((7, 3), "f4"), "params/t": np.ones(1, "f4")}
TEXT |= {"params/txt/Encoder_0/encoderblock/LayerNorm_0/bias": np.ones((2, 3), "f4")}


@pytest.mark.parametrize(
    ("prefix", "scan", "big_vision", "save"),
    [
        ("", True, True, np.savez),
        ("params/", True, True, np.savez_compressed),
        ("params/img/", True, True, np.savez),
        ("params/img/", False, True, np.savez_compressed),
        ("params/img/", False, False, np.savez),
        ("img/", False, True, np.savez),
        ("img/", True, False, np.savez),
    ],
)
def test_towers_and_stacks_give_the_logits_of_numpy(tmp_path, prefix, scan, big_vision, save):
    tensors = random_tensors(ref.google_shapes(prefix, big_vision))
    beside = {name.removeprefix("" if "params" in prefix else "params/"): tensor for name, tensor in TEXT.items()}
    beside = beside if "img" in prefix else {}
    save(tmp_path / "a.npz", **(stack_blocks(tensors) if scan else tensors), **beside)
    source = port(tmp_path / "a.npz", tmp_path / "out")
    assert source.unused == sorted(beside)
    logits = load(source, tmp_path / "out")(IMAGES).logits
    np.testing.assert_allclose(logits, ref.google_forward(tensors, prefix, big_vision), rtol=0, atol=1e-4)


def test_slices_of_a_stack_are_views_of_the_mapped_file(tmp_path):
    np.savez(tmp_path / "a.npz", **stack_blocks(random_tensors(ref.google_shapes("params/", True))))
    name = "params/Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"
    arrays, _ = read_tower(read_any(tmp_path / "a.npz")[0], "a.npz")
    array = np.asarray(arrays[name])
    assert array.shape == arrays[name].shape == (ref.WIDTH, ref.HIDDEN)
    while isinstance(array.base, np.ndarray):
        assert not array.flags.writeable
        array = array.base
    assert isinstance(array, np.memmap)


@pytest.mark.parametrize("prefix", ["", "params/", "params/img/"])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("MAPHead_0/probe", r"pools by attention: {}MAPHead_0/probe.*SigLIP"),
        ("head/extra", "has none and pools by averaging the patches"),
    ],
)
def test_big_vision_without_class_token(tmp_path, prefix, head, message):
    tensors = random_tensors(ref.google_shapes(prefix, True))
    del tensors[f"{prefix}cls"]
    np.savez(tmp_path / "a.npz", **stack_blocks(tensors), **{f"{prefix}{head}": np.ones((1, 1, 3), "f4")})
    fails(tmp_path / "a.npz", f"class token, {prefix}cls, in .*{message.format(prefix)}")


@pytest.mark.parametrize(
    "shape", [(), (3, ref.WIDTH), (0, ref.WIDTH), (2**40, 0), (ref.WIDTH,)], ids=lambda shape: str(shape)
)
def test_stacks_of_other_depths(tmp_path, shape):
    tensors = stack_blocks(random_tensors(ref.google_shapes("params/", True)))
    name = "params/Transformer/encoderblock/LayerNorm_0/bias"
    np.savez(tmp_path / "a.npz", **tensors | {name: np.zeros(shape, "f4")})
    fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth.*Received: ")
    if shape == (2**40, 0):  # all of that depth, and not a byte
        stacks = {name: np.zeros((2**40, 0), "f4") for name in tensors if "/encoderblock/" in name}
        np.savez(tmp_path / "a.npz", **tensors | stacks)
        fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth and 20000 variables at most")
        many = {f"Transformer/encoderblock/{i}": np.zeros((1000, 0), "f4") for i in range(100)}
        np.savez(tmp_path / "a.npz", **many)
        fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth and 20000 variables at most")


def test_stacks_beside_single_blocks(tmp_path):
    tensors = random_tensors(ref.google_shapes("params/", True))
    np.savez(tmp_path / "a.npz", **tensors | stack_blocks(tensors))
    fails(tmp_path / "a.npz", "or each apart. Received: both, ")


def test_numpy_stores_bfloat16_as_two_bytes(tmp_path):
    tensors = random_tensors(ref.google_shapes("params/", big_vision=True))
    np.savez(tmp_path / "a.npz", **{name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()})
    port(tmp_path / "a.npz", tmp_path / "out")
    received = read_any(tmp_path / "out")[0]["vit.encoder.layer.0.output.dense.weight"]
    assert received.dtype == ml_dtypes.bfloat16
    expected = tensors["params/Transformer/encoderblock_0/MlpBlock_0/Dense_1/kernel"].T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(received), expected)


# Round trips.


@pytest.mark.parametrize(
    ("to", "distilled"),
    [(to, distilled) for to in TARGETS for distilled in (False, True) if (to, distilled) != ("npz", True)],
)
def test_there_and_back_is_exact(tmp_path, to, distilled):
    expected = timm_file(tmp_path / "a.safetensors", distilled)
    port(tmp_path / "a.safetensors", tmp_path / f"b{SUFFIXES[to]}", to=to, **OVERRIDES)
    port(tmp_path / f"b{SUFFIXES[to]}", tmp_path / "c.safetensors", to="timm", **OVERRIDES)
    received = load_file(tmp_path / "c.safetensors")
    assert received.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(received[name], tensor, strict=True)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("class_name", ALL_CLASSES)
def test_rules_of_every_format_are_inverse(format, class_name):
    """Every format, written ones or not: our variables -> their tensors -> our variables, bit for bit."""
    config_class = tfdeit.DeiTConfig if class_name.startswith("DeiT") else tfdeit.ViTConfig
    config, rng = config_class(**CONFIG), np.random.default_rng(0)
    rules = format_rules(format, config, format.prefixes[0].format(config.model_type))
    optional = {part for name in rules for part in name.split("/") if part in {"pooler", "mask_token", "decoder"}}
    heads = {part for name in rules for part in name.split("/") if part.endswith("classifier")}
    shapes = {n: s for n, s in variable_shapes(config, optional | heads).items() if n in rules}
    assert len(shapes) > 30 or config.num_prefix_tokens == 2
    variables = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    if format.name == "Big Vision npz":
        variables["token_concatenation/position_embeddings"][:, 0] = 0
    tensors = dict(from_keras(rules, variables))
    received = dict(to_keras(rules, tensors))
    assert received.keys() == variables.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(received[name], value, strict=True)


@pytest.mark.parametrize("class_name", ALL_CLASSES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keras_files_of_every_class(tmp_path, class_name, dtype):
    """What Keras saved is read by paths; what we write, Keras loads."""
    model = our_model(class_name)
    half = type(model)(model.config, dtype=dtype)
    half.set_weights([weight.astype(dtype) for weight in model.get_weights()])
    half.save_pretrained(tmp_path / "expected")
    half.save(tmp_path / "a.keras")
    half.save_weights(tmp_path / "a.weights.h5")
    expected = {name: np.asarray(array) for name, array in read_any(tmp_path / "expected")[0].items()}
    for file, options in (("a.keras", {}), ("a.weights.h5", OVERRIDES)):
        source = port(tmp_path / file, tmp_path / "out", **options)
        assert source.architecture == class_name
        received = {name: np.asarray(array) for name, array in read_any(tmp_path / "out")[0].items()}
        assert received.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(received[name], tensor, strict=True)
    assert open_source(tmp_path / "a.keras").config == model.config

    port(tmp_path / "expected", tmp_path / "b.weights.h5", to="keras")
    copy = type(model)(model.config, dtype=dtype)
    copy.load_weights(tmp_path / "b.weights.h5")
    for a, b in zip(copy.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_file_of_a_model_in_training(tmp_path):
    model = our_model("ViTForImageClassification", hidden_dropout_prob=0.1, drop_path_rate=0.1)
    model.compile("adam", "mse")
    model.fit(IMAGES, np.zeros((2, 5)), verbose=0)
    model.save(tmp_path / "a.keras")
    source = port(tmp_path / "a.keras", tmp_path / "out")
    assert source.config.drop_path_rate == 0.1
    for a, b in zip(load(source, tmp_path / "out").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shapes_are_those_of_the_models():
    for class_name in ALL_CLASSES:
        model = our_model(class_name, pooler_output_size=7, num_labels=3)
        received = {
            n.removeprefix("vit/").removeprefix("deit/"): tuple(v.shape) for n, v in named_variables(model).items()
        }
        parts = {part for name in received for part in name.split("/")}
        optional = parts & {
            "pooler",
            "mask_token",
            "decoder",
            "classifier",
            "cls_classifier",
            "distillation_classifier",
        }
        assert variable_shapes(model.config, optional) == received


# Against the frameworks.


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_files_of_torch(tmp_path, legacy, wrapper):
    torch = pytest.importorskip("torch", reason="the oracle of torch files")
    tensors = random_tensors(torch_shapes(TIMM, True))
    values = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    values = {wrapper: values, "epoch": 3, "meta": {"time": "now"}} if wrapper else values
    torch.save(values, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    port(tmp_path / "a.pth", tmp_path / "b.safetensors", to="timm", **OVERRIDES)
    received = load_file(tmp_path / "b.safetensors")
    assert received.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(received[name], tensor, strict=True)


@pytest.mark.parametrize(("to", "wrapper"), [("timm", None), ("fb", "model"), ("mmpretrain", "state_dict")])
def test_torch_loads_what_is_written(tmp_path, to, wrapper):
    torch = pytest.importorskip("torch", reason="the oracle of torch files")
    names = MMPRETRAIN if to == "mmpretrain" else TIMM
    tensors = timm_file(tmp_path / "a.safetensors", True, names)
    port(tmp_path / "a.safetensors", tmp_path / "b.pth", to=to, **OVERRIDES)
    received = torch.load(tmp_path / "b.pth", weights_only=True)
    received = received[wrapper] if wrapper else received
    assert received.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(received[name].numpy(), tensor, strict=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_writer_keeps_dtypes_and_shapes(tmp_path, dtype):
    torch = pytest.importorskip("torch", reason="the oracle of torch files")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = {"a": np.arange(6).reshape(2, 3).T.astype(dtype), "b": np.array(3, dtype), "c": np.zeros((0, 2), dtype)}
    write_torch(tmp_path / "a.pth", {**arrays, "deep": {"text": "é", "number": 2**40, "none": None, "list": [1.5]}})
    received, own = torch.load(tmp_path / "a.pth", weights_only=True), read_torch(tmp_path / "a.pth")
    assert received.pop("deep") == own.pop("deep") == {"text": "é", "number": 2**40, "none": None, "list": [1.5]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(received[name].double().numpy(), array.astype("float64"), strict=True)
        np.testing.assert_array_equal(own[name], array, strict=True)


@pytest.mark.parametrize("class_name", ALL_CLASSES)
def test_state_dict_of_transformers_in_memory(tmp_path, class_name):
    oracles = pytest.importorskip("oracles", reason="the oracle: pip install tfdeit[parity]")
    theirs = oracles.random_model(class_name, **CONFIG)
    oracles.torch.save(theirs.state_dict(), tmp_path / "a.bin")
    theirs.save_pretrained(tmp_path / "expected")
    source = port(tmp_path / "a.bin", tmp_path / "out", **OVERRIDES)
    assert (source.format, source.architecture) == ("Hugging Face in memory", class_name)
    assert source.config.layer_norm_eps == theirs.config.layer_norm_eps
    received, expected = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "expected"))
    assert received.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(received[name], tensor, strict=True)


def test_transformers_loads_what_is_written(tmp_path):
    oracles = pytest.importorskip("oracles", reason="the oracle: pip install tfdeit[parity]")
    tensors = timm_file(tmp_path / "a.safetensors", distilled=True)
    port(tmp_path / "a.safetensors", tmp_path / "out", **OVERRIDES)
    model, info = oracles.transformers.DeiTForImageClassificationWithTeacher.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())
    expected = ref.torch_forward(tensors, TIMM, distilled=True)
    np.testing.assert_allclose(oracles.answer(model, IMAGES)["logits"], expected, rtol=0, atol=1e-4)


def test_tf_model_of_transformers_4(tmp_path):
    model = our_model("DeiTForImageClassificationWithTeacher")
    model.save_pretrained(tmp_path / "hub")
    tensors = load_file(tmp_path / "hub" / "model.safetensors")
    write_tf_model(tmp_path / "tf_model.h5", tensors, "tf_dei_t_for_image_classification_with_teacher")
    with h5py.File(tmp_path / "tf_model.h5") as file:  # kernels are (inputs, outputs)
        kernel = file["deit/tf_dei_t_for_image_classification_with_teacher/deit/encoder/layer_._1/intermediate/dense"]
        assert kernel["kernel:0"].shape == (32, 48)
    model.config.save_pretrained(tmp_path)
    source = port(tmp_path, tmp_path / "out")
    assert source.format == "transformers' TensorFlow"
    for a, b in zip(load(source, tmp_path / "out").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# What was asked for.


def test_image_size_interpolates_the_positions(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "same", **OVERRIDES)
    port(tmp_path / "a.safetensors", tmp_path / "larger", image_size=24, **OVERRIDES)
    received = load(source, tmp_path / "larger")
    expected = tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "same", image_size=24)
    for a, b in zip(received.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_num_labels_renews_the_heads(tmp_path):
    tensors = timm_file(tmp_path / "a.safetensors", distilled=True)
    source = port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="timm", id2label=["x", "y"], **OVERRIDES)
    received = load_file(tmp_path / "b.safetensors")
    assert received["head.weight"].shape == received["head_dist.weight"].shape == (2, 32)
    assert received["head.weight"].std() > 0.01
    assert source.initialised == [
        f"{h}/{leaf}" for h in ("cls_classifier", "distillation_classifier") for leaf in ("bias", "kernel")
    ]
    np.testing.assert_array_equal(received["norm.weight"], tensors["norm.weight"])


def test_config_of_another_model(tmp_path):
    our_model("ViTModel", num_hidden_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for model_type in ("deit", "bert", ["vit"]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        with pytest.raises(CheckpointError, match="Expected a config of model_type 'vit'"):
            open_source(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="Expected a JSON object"):
        open_source(tmp_path)


def test_grid_that_is_not_square(tmp_path):
    def crop(tensors):
        tensors["pos_embed"] = tensors["pos_embed"][:, : 1 + 2 * 6]

    timm_file(tmp_path / "a.safetensors", change=crop)
    with pytest.raises(CheckpointError, match="square number of patches.*Received: 12. Say the image_size"):
        open_source(tmp_path / "a.safetensors", **OVERRIDES)
    assert open_source(tmp_path / "a.safetensors", image_size=(8, 24), **OVERRIDES).config.grid == (2, 6)


def test_unused_pooler_of_a_classifier_is_left_out(tmp_path):
    model = our_model("ViTForImageClassification")
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a/model.safetensors")
    tensors |= {"vit.pooler.dense.weight": np.ones((32, 32), "f4"), "vit.pooler.dense.bias": np.ones(32, "f4")}
    save_file(tensors, tmp_path / "a/model.safetensors")
    source = port(tmp_path / "a", tmp_path / "b.safetensors", to="timm")
    assert source.unused == ["vit.pooler.dense.bias", "vit.pooler.dense.weight"]
    assert load_file(tmp_path / "b.safetensors").keys() == torch_shapes(TIMM, False).keys()


# Provenance.


def test_files_say_where_they_come_from(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    checksum = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    expected = {"files": {"a.safetensors": checksum}, "format": "timm", "tfdeit": tfdeit.__version__}
    for to, suffix in SUFFIXES.items():
        port(tmp_path / "a.safetensors", tmp_path / f"{to}{suffix}", to=to, **OVERRIDES)
    assert json.loads((tmp_path / "hf/config.json").read_text())["tfdeit_provenance"] == expected
    for file in (tmp_path / "hf/model.safetensors", tmp_path / "timm.safetensors"):
        with safetensors.safe_open(file, "numpy") as opened:
            assert json.loads(opened.metadata()["tfdeit_provenance"]) == expected
    for to in ("fb", "mmpretrain"):
        assert json.loads(read_torch(tmp_path / f"{to}.pth")["meta"]["tfdeit_provenance"]) == expected
    assert json.loads(zipfile.ZipFile(tmp_path / "npz.npz").comment) == expected
    with h5py.File(tmp_path / "keras.weights.h5") as opened:
        assert json.loads(opened.attrs["tfdeit_provenance"]) == expected


def test_config_and_processor_of_a_directory_go_along(tmp_path):
    model = our_model("ViTForImageClassification", layer_norm_eps=1e-5, hidden_act="relu")
    model.save_pretrained(tmp_path / "a")
    tfdeit.ViTImageProcessor(size=16).save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b")
    assert source.config.replace(extra={}) == model.config
    assert (tmp_path / "b/preprocessor_config.json").is_file()
    assert load(source, tmp_path / "b").config.layer_norm_eps == 1e-5


# Published checkpoints by name.


@pytest.fixture
def row(monkeypatch):
    """A row of the zoo, as small as the files of these tests; what no shape tells is unlike all defaults."""
    row = zoo.find("deit_tiny_patch16_224")
    row = dataclasses.replace(row, architecture={**CONFIG, "hidden_act": "relu", "layer_norm_eps": 1e-3})
    monkeypatch.setitem(zoo.BY_NAME, row.name, row)
    return row


@pytest.mark.parametrize("to", TARGETS)
def test_a_name_says_what_shapes_do_not(tmp_path, row, to):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / f"b{SUFFIXES[to]}", to=to, name=row.name)
    assert source.config == source.stored == row.config()
    if to == "hf":
        assert tfdeit.ViTConfig.from_pretrained(tmp_path / "b").replace(extra={}) == row.config()
        note = json.loads((tmp_path / "b/config.json").read_text())["tfdeit_provenance"]["checkpoint"]
        assert note == json.loads(json.dumps(row.to_dict()))
        assert (note["top1"], note["accuracy_protocol"], note["licence"]) == (72.2, "fb", "Apache-2.0")
        processor = tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b")
        assert processor.to_dict() == protocol_processor(row.protocol, 16).to_dict()


def test_a_name_and_other_wishes(tmp_path, row):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "b", name=row.name, image_size=24, id2label=["x", "y"])
    assert source.config == row.config(image_size=24, id2label=["x", "y"])
    assert tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b").crop_size == {"height": 24, "width": 24}
    port(tmp_path / "a.safetensors", tmp_path / "c", name=row.name, image_size=(16, 24))
    assert not (tmp_path / "c/preprocessor_config.json").exists()  # protocols are of squares


def test_the_processor_is_kept_with_its_size(tmp_path):
    port("deit_micro_cifar10", tmp_path / "same")
    assert (tmp_path / "same/preprocessor_config.json").exists()
    port("deit_micro_cifar10", tmp_path / "larger", image_size=48)
    assert not (tmp_path / "larger/preprocessor_config.json").exists()


def test_a_backbone_keeps_its_pooler_beside_a_mask_token(tmp_path):
    model = tfdeit.TFViTModel(our_model("ViTModel").config, use_mask_token=True)
    model.save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b")
    assert source.unused == []
    assert read_any(tmp_path / "a")[0].keys() == read_any(tmp_path / "b")[0].keys()


def test_epsilon_is_of_the_file_where_the_row_does_not_say_it(tmp_path, row, monkeypatch):
    """The hub's copies of DeiT say 1e-12, Facebook's own files mean 1e-6."""
    monkeypatch.setitem(zoo.BY_NAME, row.name, dataclasses.replace(row, architecture=CONFIG))
    timm_file(tmp_path / "a.safetensors")
    assert open_source(tmp_path / "a.safetensors", row.name).config.layer_norm_eps == 1e-6
    assert all("layer_norm_eps" not in zoo.find(name).architecture for name in zoo.list_models("facebook/*"))


def test_a_directory_keeps_its_own_config_and_processor(tmp_path, row):
    our_model("ViTForImageClassification", layer_norm_eps=1e-5).save_pretrained(tmp_path / "a")
    tfdeit.ViTImageProcessor(size=17).save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b", name=row.name)
    assert source.config.layer_norm_eps == 1e-5
    assert tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b").size == {"height": 17, "width": 17}
    our_model("ViTForImageClassification", num_attention_heads=2).save_pretrained(tmp_path / "c")
    fails_as(tmp_path / "c", row.name, "  num_attention_heads: 2 instead of 4")


def fails_as(path, name, *lines):
    with pytest.raises(CheckpointError) as caught:
        open_source(path, name)
    assert str(caught.value).splitlines() == [f"{path}: Expected the checkpoint {name}. Received one with", *lines]


def test_features_without_classes_are_known_by_their_shapes(tmp_path, row, monkeypatch):
    """A config.json of the hub says two classes where it says nothing."""
    name = "vit_base_patch16_224_in21k"
    monkeypatch.setitem(zoo.BY_NAME, name, dataclasses.replace(row, name=name, architecture=CONFIG | {"num_labels": 0}))
    our_model("ViTModel", num_labels=2).save_pretrained(tmp_path / "a")
    assert open_source(tmp_path / "a", name).architecture == "ViTModel"
    our_model("ViTForImageClassification", num_labels=2).save_pretrained(tmp_path / "b")
    fails_as(tmp_path / "b", name, "  num_labels: 2 instead of 0")


def test_contradictions_are_listed(tmp_path):
    timm_file(tmp_path / "a.safetensors", distilled=True)
    fails_as(
        tmp_path / "a.safetensors",
        "deit3_medium_patch16_224",  # of 8 heads
        "  model_type: deit instead of vit",
        "  hidden_size: 32 instead of 512",
        "  num_hidden_layers: 2 instead of 12",
        "  intermediate_size: 48 instead of 2048",
        "  image_size: 16 instead of 224",
        "  patch_size: 4 instead of 16",
        "  no_embed_class: False instead of True",
        "  num_labels: 5 instead of 1000",
        "  LayerScale: False instead of True",
    )
    with pytest.raises(ValueError, match="Did you mean 'deit_tiny_patch16_224'"):
        port("no/where.pth", tmp_path / "b", name="deit_tiny_patch16_223")


def test_heads_of_google_against_a_row(tmp_path, row, monkeypatch):
    np.savez(tmp_path / "a.npz", **random_tensors(ref.google_shapes()))
    assert open_source(tmp_path / "a.npz", row.name).config == row.config()
    other = dataclasses.replace(row, architecture={**row.architecture, "num_attention_heads": 2})
    monkeypatch.setitem(zoo.BY_NAME, row.name, other)
    with pytest.raises(CheckpointError, match=r"misshapen: .*query/kernel \(32x4x8 instead of 32x2x16\)"):
        open_source(tmp_path / "a.npz", row.name)


# What does not fit.


def fails(path, match, **options):
    with pytest.raises(CheckpointError, match=match):
        open_source(path, **OVERRIDES | options)


def test_all_that_does_not_fit_is_in_one_error(tmp_path):
    def spoil(tensors):
        del tensors["blocks.1.norm1.bias"]
        tensors["blocks.0.mlp.fc2.weight"] = np.zeros((48, 32), "float32")
        tensors["norm.bias"] = np.zeros(32, "int64")

    timm_file(tmp_path / "a.safetensors", change=spoil)
    with pytest.raises(CheckpointError) as caught:
        port(tmp_path / "a.safetensors", tmp_path / "out", **OVERRIDES)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: blocks.1.norm1.bias",
        "  misshapen: blocks.0.mlp.fc2.weight (48x32 instead of 32x48)",
        "  not floating-point: norm.bias",
    ]
    assert not (tmp_path / "out").exists()


def test_mixed_names(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda t: t.update({"vit.layernorm.bias": t.pop("norm.bias")}))
    fails(
        tmp_path / "a.safetensors",
        "(?s)of none:\n  timm knows 31 of 32, not: vit.layernorm.bias\n  Hugging Face knows 1",
    )


def test_names_of_two_formats(tmp_path):
    names = {"blocks.0.norm1.bias": np.ones(3, "f4"), "head.weight": np.ones((2, 3), "f4")}
    save_file(names, tmp_path / "a.safetensors")
    fails(tmp_path / "a.safetensors", "patch_embed.proj.weight, which tells the model's sizes")
    names = {"Transformer/encoderblock_0/LayerNorm_0/bias": np.ones(3, "f4"), "cls": np.ones((1, 1, 3), "f4")}
    np.savez(tmp_path / "a.npz", **names)
    fails(tmp_path / "a.npz", "(?s)of several:\n  Google npz knows 2 of 2\n  Big Vision npz knows 2 of 2")


def test_models_without_blocks(tmp_path):
    """Formats differ in the names of blocks: without these a file is of no one format, whatever its config says."""
    our_model("ViTForImageClassification", num_hidden_layers=0).save_pretrained(tmp_path / "a")
    fails(tmp_path / "a", "transformer blocks in .*Received: depth 0.* of Hugging Face or Hugging Face in memory")
    tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "a")  # which need not guess the format

    def without_blocks(tensors):
        for name in [name for name in tensors if name.startswith("blocks.")]:
            del tensors[name]

    timm_file(tmp_path / "a.safetensors", change=without_blocks)
    fails(tmp_path / "a.safetensors", "transformer blocks in .*Received: depth 0.* of timm")
    our_model("ViTForImageClassification").save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text()) | {"num_hidden_layers": 0}
    (tmp_path / "b/config.json").write_text(json.dumps(config))
    fails(tmp_path / "b", "Expected config.json to say num_hidden_layers=2, as the weights have. Received: 0")


def test_names_of_nobody(tmp_path):
    save_file({"conv1.weight": np.ones((2, 3), "f4")}, tmp_path / "a.safetensors")
    fails(tmp_path / "a.safetensors", "no format knows any of: conv1.weight")
    save_file({}, tmp_path / "b.safetensors")
    fails(tmp_path / "b.safetensors", "Expected the names in .* to be of one format")


def test_pre_logits(tmp_path):
    tensors = random_tensors(ref.google_shapes() | {"pre_logits/kernel": (32, 32), "pre_logits/bias": (32,)})
    np.savez(tmp_path / "a.npz", **tensors)
    fails(tmp_path / "a.npz", "(?s)not: pre_logits/bias, pre_logits/kernel.*The layer pre_logits.*fine-tuned")


def test_gap_in_the_blocks(tmp_path):
    def rename(tensors):
        for name in [name for name in tensors if name.startswith("blocks.1.")]:
            tensors[name.replace("blocks.1.", "blocks.2.")] = tensors.pop(name)

    timm_file(tmp_path / "a.safetensors", change=rename)
    fails(tmp_path / "a.safetensors", "missing: blocks.1.attn.proj.bias, blocks.1")


def test_immense_index_of_a_block(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda t: t.update({"blocks.999999.norm1.bias": t["norm.bias"]}))
    fails(tmp_path / "a.safetensors", "not: blocks.0.attn.proj.bias")


def test_width_that_tells_no_heads(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="multiple of 64.*Received: 32. Say how many heads.*num_attention_heads"):
        open_source(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="hidden_size to be a multiple of num_attention_heads=5"):
        open_source(tmp_path / "a.safetensors", num_attention_heads=5)
    with pytest.raises(ValueError, match="Did you mean 'num_labels'"):
        open_source(tmp_path / "a.safetensors", num_label=3, **OVERRIDES)


def test_nothing_of_a_checkpoint_is_lost_silently(tmp_path):
    our_model("DeiTForImageClassificationWithTeacher").save_pretrained(tmp_path / "deit")
    with pytest.raises(CheckpointError, match="cls_classifier/bias.*distillation_token have no place there"):
        port(tmp_path / "deit", tmp_path / "a.npz", to="npz")
    our_model("ViTModel").save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="pooler/bias, pooler/kernel have no place there"):
        port(tmp_path / "vit", tmp_path / "a.safetensors", to="timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deit", "vit"]


def test_values_that_are_not_finite_leave_no_file(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda tensors: tensors["norm.bias"].put(3, np.nan))
    for to, suffix in SUFFIXES.items():
        with pytest.raises(CheckpointError, match="Expected finite values of norm.bias"):
            port(tmp_path / "a.safetensors", tmp_path / f"out{suffix}", to=to, **OVERRIDES)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.safetensors"]


def test_tensors_that_would_fill_the_memory(tmp_path):
    torch = pytest.importorskip("torch", reason="the oracle of torch files")
    one = torch.zeros(1)
    shapes = {name: [side * 1000 for side in shape] for name, shape in torch_shapes(TIMM, False).items()}
    torch.save({name: one.expand(shape) for name, shape in shapes.items()}, tmp_path / "a.pth")
    fails(tmp_path / "a.pth", "Expected at most 64 times the .* bytes")


def test_wrong_use(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Expected the name of a file in .safetensors, .pth, .pt, .bin for timm"):
        port(tmp_path / "a.safetensors", tmp_path / "out", to="timm")
    with pytest.raises(ValueError, match="Expected a directory to write to"):
        port(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Expected a target among hf, timm"):
        port(tmp_path / "a.safetensors", tmp_path / "out", to="onnx")
    with pytest.raises(CheckpointError, match="Expected the directory of a checkpoint.* Received: 'absent.pth'"):
        port("absent.pth", tmp_path / "out")


def test_progress_counts_every_tensor(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    totals, steps = [], []

    class Counter:
        def __init__(self, total):
            totals.append(total)

        def __enter__(self):
            return steps.append

        def __exit__(self, *error):
            pass

    for to, suffix in SUFFIXES.items():
        port(tmp_path / "a.safetensors", tmp_path / f"out{suffix}", to=to, progress=Counter, **OVERRIDES)
    assert sum(steps) == sum(totals)
    assert len(totals) == len(SUFFIXES)


# The command.


def test_command(tmp_path, capsys):
    assert tuple(TARGETS) == CLI_TARGETS
    timm_file(tmp_path / "a.safetensors")
    source, out = str(tmp_path / "a.safetensors"), str(tmp_path / "out")
    assert main(["port", source, "-o", out, "--set", "num_attention_heads=4", "--set", "hidden_act=relu"]) == 0
    assert "ViTForImageClassification of 0.0 M parameters, from timm" in capsys.readouterr().out
    config = tfdeit.ViTConfig.from_pretrained(out)
    assert (config.num_attention_heads, config.hidden_act) == (4, "relu")
    assert main(["port", source, "-o", out]) == 2
    assert "num_attention_heads" in capsys.readouterr().err
    assert main(["port", source, "-o", out, "--name", "deit_tiny_patch16_224"]) == 2
    assert (
        "Expected the checkpoint deit_tiny_patch16_224. Received one with\n  hidden_size: 32" in capsys.readouterr().err
    )
    for field in ("to", "name", "progress", "output"):
        assert main(["port", source, "-o", out, "--set", f"{field}=x"]) == 2
        assert f"Expected a field of ViTConfig. Received: '{field}'" in capsys.readouterr().err


def test_script():
    script = [sys.executable, ROOT / "weights" / "port_weights.py"]
    done = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True)
    assert "SOURCE" in done.stdout
    done = subprocess.run([*script, "absent", "-o", "out"], capture_output=True, text=True)
    assert (done.returncode, "Received: 'absent'" in done.stderr) == (2, True)


# Readers.


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
            group[name] = file["/"]  # hard links: endless, were they a tree
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
    """Of a model of 200 MB, beyond what the interpreter and the libraries need."""
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


def test_porting_does_not_import_tensorflow(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    script = "import sys; from tfdeit.cli import main; assert main(sys.argv[1:]) == 0"
    script += "; assert not {'keras', 'tensorflow'} & {*sys.modules}"
    arguments = ["port", tmp_path / "a.safetensors", "-o", tmp_path / "out", "--set", "num_attention_heads=4"]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)


def test_a_rectangular_grid_whose_table_has_a_square_number_of_rows(tmp_path, rng):
    """3x5 patches and the class token are 16 rows, which is no DeiT III with 4x4."""
    config = tfdeit.ViTConfig(
        **{"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128},
        **{"image_size": (24, 40), "patch_size": 8, "encoder_stride": 8, "num_labels": 3, "layer_norm_eps": 1e-6},
    )
    model = tfdeit.TFViTForImageClassification(config)
    model.save_pretrained(tmp_path / "model")
    port(tmp_path / "model", tmp_path / "timm.safetensors", to="timm")
    port(tmp_path / "timm.safetensors", tmp_path / "back", image_size=(24, 40))
    back = tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "back")
    pixel_values = rng.normal(size=(1, 24, 40, 3)).astype("float32")
    np.testing.assert_allclose(back(pixel_values).logits, model(pixel_values).logits, atol=1e-6)
