"""Porting: every format in and out, exactly; against plain numpy, torch, transformers and Keras."""

import h5py
import ml_dtypes
import numpy as np
import pytest
import references as ref
from checkpoints import CONFIG, SUFFIXES, load, our_model, timm_file
from references import IMAGES, MMPRETRAIN, OVERRIDES, TIMM, random_tensors, torch_shapes, write_tf_model
from safetensors.numpy import load_file

import tfdeit
from tfdeit.checkpoint.files import named_variables
from tfdeit.checkpoint.fit import variable_shapes
from tfdeit.checkpoint.formats import FORMATS, format_rules
from tfdeit.checkpoint.port import TARGETS, open_source, port
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.rules import from_keras, to_keras
from tfdeit.checkpoint.torch_files import read_torch, write_torch

ALL_CLASSES = [
    *("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling", "DeiTModel", "DeiTForImageClassification"),
    *("DeiTForImageClassificationWithTeacher", "DeiTForMaskedImageModeling"),
]


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
    """Every format, whether we write it or not: our variables -> their tensors -> our variables, bit for bit."""
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
    """What Keras saves, we read by path; what we write, Keras loads."""
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
