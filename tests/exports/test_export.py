"""Exports compared with TensorFlow, each in its own runtime, for models of every kind; and what is refused."""

import contextlib
import importlib.util
import json
import types

import numpy as np
import pytest
from PIL import Image

import tfdeit
from tfdeit.exports import FORMATS, check_choice, comparison
from tfdeit.exports.comparison import compare, generate_images, reference, tolerance
from tfdeit.exports.export import DifferentError, export_model, staged
from tfdeit.exports.readme import preprocessing_code
from tfdeit.preprocessing.processors import protocol_processor

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "initializer_range": 0.3,  # so that attention and GELU are far from linear
}
# name -> class, and what its config says.
KINDS = {
    "distilled": ("TFDeiTForImageClassificationWithTeacher", {}),
    "one head": ("TFDeiTForImageClassification", {"hidden_act": "quick_gelu"}),
    "vit": ("TFViTForImageClassification", {"qkv_bias": False, "hidden_act": "gelu_new"}),
    "deit3": ("TFViTForImageClassification", {"layerscale_value": 0.5, "no_embed_class": True, "hidden_act": "selu"}),
    "wide": ("TFViTForImageClassification", {"image_size": (16, 48), "patch_size": (8, 4), "hidden_act": "silu"}),
    "grey": ("TFViTForImageClassification", {"num_channels": 1, "hidden_act": "relu"}),
    "sigmoid": ("TFViTForImageClassification", {"hidden_act": "sigmoid"}),
    "tanh": ("TFViTForImageClassification", {"hidden_act": "tanh"}),
}


def build(kind="distilled", **changes):
    class_name, options = KINDS[kind]
    model_class = getattr(tfdeit, class_name)
    model = model_class(model_class.config_class(**{**TINY, **options, **changes}))
    rng = np.random.default_rng(0)
    for variable in model.variables:  # biases, tokens and norms, too
        variable.assign(variable.numpy() + 0.1 * rng.normal(size=variable.shape))
    return model


def pixels(model, count=8):
    shape = (count, *model.config.image_hw, model.config.num_channels)
    return np.random.default_rng(1).normal(size=shape).astype("float32")


PROCESSOR = protocol_processor("fb", 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0.0)


def need(name):
    for module in FORMATS[name].packages:
        pytest.importorskip(module, reason=f"format {name} needs tfdeit[export]")


QUICK = ("distilled", "deit3")


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k not in QUICK)])
def test_onnx_runtime_answers_as_tensorflow(kind, tmp_path):
    need("onnx")
    from tfdeit.exports import onnx_graph

    model = build(kind)
    values = pixels(model)
    onnx_graph.write(model, PROCESSOR, tmp_path, "float32", None)
    run = onnx_graph.load(tmp_path, "float32")
    expected = model.predict_on_batch(values).logits
    for count in (1, 3, 8):
        np.testing.assert_allclose(run(values[:count]), expected[:count], atol=2e-5)
    found = compare(reference(model), run, values)
    assert found["relative_error"] <= tolerance(model.config, "float32")
    assert found["top1_agreement"] == 1.0


def test_onnx_weights_of_more_than_a_protobuf_holds_are_in_a_second_file(tmp_path, monkeypatch):
    need("onnx")
    from tfdeit.exports import onnx_graph

    monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 10_000)
    model = build()
    report = export_model(model, PROCESSOR, tmp_path / "out", format="onnx", dtype="float16")
    assert (
        (tmp_path / "out" / "model.onnx").stat().st_size
        < 40_000
        < (tmp_path / "out" / "model.onnx.data").stat().st_size
    )
    assert report.bytes == sum((tmp_path / "out" / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


CASES = [(name, dtype) for name, row in FORMATS.items() for dtype in row.dtypes if name != "torch"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_format_and_dtype_is_within_its_tolerance(name, dtype, tmp_path):
    need(name)
    model = build()
    report = export_model(model, PROCESSOR, tmp_path / "out", format=name, dtype=dtype)
    assert (report.format, report.dtype, report.images) == (name, dtype, 16)
    assert 0 < report.relative_error <= report.tolerance or name == "savedmodel"
    assert report.max_difference > 1e-5 or dtype == "float32"  # it really is stored in fewer bits
    assert report.latency_batch1 > 0
    assert report.latency_batch8 > 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md"} | ({"1"} if name == "savedmodel" else {"labels.txt", "preprocessor_config.json"}) <= names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_openvino_calibrated_on_images(tmp_path):
    need("openvino")
    model = tfdeit.get_model("deit_micro_cifar10")
    processor, options = model.image_processor, {"format": "openvino", "dtype": "int8"}
    calibrated = export_model(model, processor, tmp_path / "a", **options, calibration=generate_images(processor, 32))
    weights_only = export_model(model, processor, tmp_path / "b", **options)
    assert weights_only.relative_error < calibrated.relative_error <= calibrated.tolerance
    assert "FakeQuantize" in (tmp_path / "a" / "model.xml").read_text()
    assert "FakeQuantize" not in (tmp_path / "b" / "model.xml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "one head"])
def test_torch_directory(kind, tmp_path):
    model = build(kind)
    report = export_model(model, PROCESSOR, tmp_path / "out", format="torch", dtype="bfloat16")
    assert 0 < report.relative_error <= report.tolerance
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


# ------------------------------------------------------------------------------------------------ what is refused


def test_what_transformers_has_no_class_for(tmp_path):
    with pytest.raises(ValueError, match="Received: DeiT III.*port MODEL --to timm"):
        export_model(build("deit3"), PROCESSOR, tmp_path / "out", format="torch")
    assert not [*tmp_path.iterdir()]


def test_a_network_that_differs_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    need("onnx")
    from tfdeit.exports import onnx_graph

    monkeypatch.setitem(onnx_graph._ACTIVATIONS, "gelu", onnx_graph._ACTIVATIONS["gelu_new"])  # off by 5e-4
    with pytest.raises(DifferentError, match="which rounding explains") as caught:
        export_model(build(), PROCESSOR, tmp_path / "out", format="onnx")
    assert caught.value.report.relative_error > caught.value.report.tolerance
    assert not [*tmp_path.iterdir()]


def test_answers_that_are_not_numbers_are_refused(tmp_path, monkeypatch):
    broken = types.SimpleNamespace(
        write=lambda *args, **options: None, load=lambda *args: lambda x: np.full((len(x), 5), np.nan, "float32")
    )
    monkeypatch.setattr("tfdeit.exports.export.implementation", lambda name: broken)
    with pytest.raises(DifferentError, match="nan"):
        export_model(build(), PROCESSOR, tmp_path / "out", format="torch")
    assert not [*tmp_path.iterdir()]


def test_tolerances_tell_rounding_from_mistakes():
    config = tfdeit.DeiTConfig()
    found = [tolerance(config, dtype) for dtype in ("float32", "float16", "bfloat16", "int8")]
    assert found[0] < 2e-4 < found[1] < 0.05 < found[2] == found[3] < 0.2
    deeper = config.replace(num_hidden_layers=4 * config.num_hidden_layers)
    assert tolerance(deeper, "int8") == pytest.approx(2 * found[3])


def test_comparison_counts_the_worst_image():
    expected = np.array([[3.0, 1.0, 2.0], [30.0, 10.0, 20.0]], "float32")
    found = compare(lambda x: expected, lambda x: expected + np.array([[0, 0, 0], [0, 0, 12.0]]), np.zeros((2, 1)))
    assert found == {
        "max_difference": 12.0,
        "relative_error": pytest.approx(12 / np.sqrt(200)),
        "top1_agreement": 0.5,
    }
    one = compare(lambda x: expected[:, :1], lambda x: expected[:, :1] * 1.5, np.zeros((2, 1)))
    assert one["relative_error"] == pytest.approx(0.5)  # a single logit, as in a regression, has no mean to subtract
    with pytest.raises(ValueError, match=r"Expected logits of shape \(2, 3\). Received: \(2, 2\)"):
        compare(lambda x: expected, lambda x: expected[:, :2], np.zeros((2, 1)))


def test_wrong_choices_are_refused_before_anything_is_written(tmp_path):
    model = build()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("")
    half = tfdeit.TFViTForImageClassification(tfdeit.ViTConfig(**TINY), dtype="bfloat16")
    cases = {
        "Expected one of the formats savedmodel, litert, .* Received: 'tflite'": {"format": "tflite"},
        "Received: 'int4'. There are: savedmodel: float32, .*; torch: ": {"dtype": "int4"},
        "dtype that format torch supports. Received: 'int8'": {"dtype": "int8"},
        "which holds thesis.txt. Choose another": {"directory": tmp_path / "full"},
        "which holds thesis.txt.": {"directory": tmp_path / "full", "format": "savedmodel"},
        "Received: the file": {"directory": tmp_path / "file"},
        "Received: top_k with format torch": {"top_k": 3},
        "Received: calibration with format torch": {"calibration": pixels(model)},
        "a TFViTModel without": {"model": tfdeit.TFViTModel(tfdeit.ViTConfig(**TINY))},
        "a TFViTForImageClassification without": {"model": build("vit", num_labels=0)},
        r"images of shape \(32, 32, 3\), .* Received: \(16, 32, 3\)": {"images": pixels(model)[:, :16]},
        "Expected a model in float32, to compare with. Received: bfloat16": {"model": half},
    }
    for message, change in cases.items():
        arguments = {"model": model, "processor": PROCESSOR, "directory": tmp_path / "out", "format": "torch", **change}
        with pytest.raises(ValueError, match=message):
            export_model(**arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def test_litert_has_a_limit(tmp_path, monkeypatch):
    need("litert")
    monkeypatch.setattr("tfdeit.exports.litert.MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="Expected weights of less than 0.0 GB in float32 for litert"):
        export_model(build(), PROCESSOR, tmp_path / "out", format="litert")
    assert not [*tmp_path.iterdir()]


def test_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"Expected onnx, onnxruntime .* pip install tfdeit\[export\]"):
        check_choice("onnx", "float32")


def test_staging_keeps_versions_and_cleans_up(tmp_path):
    target = tmp_path / "deep" / "model"
    for number in (1, 2):
        with staged(target, versions=True) as stage:
            assert stage.name == "model"
            (stage / "1").mkdir()
            (stage / "1" / "graph").write_text(str(number))
            (stage / "README.md").write_text(str(number))
    assert [(target / str(n) / "graph").read_text() for n in (1, 2)] == ["1", "2"]
    assert (target / "README.md").read_text() == "2"
    staging = contextlib.ExitStack()
    (staging.enter_context(staged(target, versions=True)) / "1").mkdir()
    assert not staging.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert sorted(path.name for path in target.iterdir()) == ["1", "2", "README.md"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_staging_into_a_link_to_an_empty_directory(tmp_path):
    """Like a mount point, it cannot be replaced."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with staged(tmp_path / "link") as stage:
        (stage / "graph").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["graph"]


# ------------------------------------------------------------------------------------------------- what lies beside


@pytest.mark.parametrize("size", [32, 224, 384])
@pytest.mark.parametrize("protocol", ["deit3", "fb", "hf", "mmpretrain", "timm", "vit"])
def test_written_preprocessing_gives_the_pixels_of_the_processor(protocol, size, tmp_path, rng):
    processor = protocol_processor(protocol, size)
    paths = [tmp_path / name for name in ("tall.png", "wide.jpg", "grey.png")]
    for path, shape in zip(paths, ((83, 61, 3), (301, 700, 3), (500, 500)), strict=True):
        Image.fromarray(rng.integers(0, 256, shape, "uint8")).save(path)
    for channels_first in (False, True):
        plain, code = preprocessing_code(processor, channels_first)
        assert plain
        exec(f"import numpy as np\nfrom PIL import Image\n{code}", scope := {})
        for path in paths:
            expected = processor(path, return_tensors="np").pixel_values[0]
            received = scope["preprocess"](path)
            np.testing.assert_array_equal(received.transpose(1, 2, 0) if channels_first else received, expected)


def test_unusual_preprocessing_is_left_to_the_processor(tmp_path, monkeypatch, photos_dir):
    usual = protocol_processor("hf", 32)
    changes = ({"size": {"max_height": 40, "max_width": 40}}, {"exif_orientation": True}, {"size": 20})
    for change in changes:
        processor = usual.replace(**change)
        plain, code = preprocessing_code(processor, channels_first=False)
        assert not plain
        processor.save_pretrained(tmp_path)
        monkeypatch.chdir(tmp_path)
        exec(f"from tfdeit import AutoImageProcessor\n{code}", scope := {})
        photo = photos_dir / "cat.png"
        np.testing.assert_array_equal(scope["preprocess"](photo), processor(photo, return_tensors="np").pixel_values[0])
