"""Exported SavedModels: answers equal the library's, through every loader; what is written, and what is refused."""

import base64
import csv
import ctypes
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from test_serving_pixels import bombs, encode

import tfdeit
from tfdeit.commands import softmax
from tfdeit.processing import DeiTImageProcessor
from tfdeit.serving import export_saved_model

MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}
PROCESSOR = DeiTImageProcessor(size={"shortest_edge": 36}, crop_size=32)


def make(cls=tfdeit.TFViTForImageClassification, **options):
    """A micro model whose every variable is random."""
    model = cls(cls.config_class(**{**MICRO, **options}))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


@pytest.fixture(scope="session")
def embedded():
    """The checkpoint that comes with the package, and its processor."""
    name = "deit_micro_cifar10"
    return (
        tfdeit.TFAutoModelForImageClassification.from_pretrained(name),
        tfdeit.AutoImageProcessor.from_pretrained(name),
    )


@pytest.fixture(scope="session")
def exported(embedded, tmp_path_factory):
    """Version 1 of the embedded checkpoint."""
    return export_saved_model(*embedded, tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session")
def images(photos_dir):
    return [path.read_bytes() for path in sorted(photos_dir.glob("*.*")) if path.suffix != ".md"]


@pytest.fixture(scope="session")
def expected(embedded, images):
    """Class indices (B, 5) and probabilities (B, 5), from the library."""
    return answers(*embedded, images)


def answers(model, processor, images, top_k=5):
    probabilities = softmax(model.predict_on_batch(processor(images).pixel_values).logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return best, np.take_along_axis(probabilities, best, axis=1)


def check(outputs, expected):
    indices, probabilities = expected
    assert {*np.ravel(outputs["status"])} == {b"ok"}
    assert np.array_equal(outputs["indices"], indices)
    assert np.abs(outputs["probabilities"] - probabilities).max() <= 1e-5


# ------------------------------------------------------------------------------------------------------- answers


def test_answers_equal_predict(embedded, exported, shared_images):
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    outputs = serve(tf.constant([path.read_bytes() for path in shared_images]))
    indices, probabilities = answers(*embedded, shared_images)
    check(outputs, (indices, probabilities))
    names = embedded[0].config.id2label
    assert [[name.decode() for name in row] for row in outputs["classes"].numpy()] == [
        [names[index] for index in row] for row in indices.tolist()
    ]


@pytest.mark.slow
def test_bad_images_do_not_disturb_their_neighbours(embedded, exported, shared_images):
    good = [path.read_bytes() for path in shared_images[:27]]
    animation = encode(Image.new("RGB", (8, 8)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    bad = {
        1: (good[0][: len(good[0]) // 2], b"damaged or truncated"),
        7: (b"", b"the file is empty"),
        8: (b"this is text", b"not a JPEG"),
        20: (dict(bombs())["jpeg bomb"], b"more than 89478485 pixels"),
        31: (animation, b"GIF is not supported"),
    }
    rest = iter(good)
    batch = [bad[i][0] if i in bad else next(rest) for i in range(32)]
    signatures = tf.saved_model.load(str(exported)).signatures
    outputs = {name: value.numpy() for name, value in signatures["serving_default"](tf.constant(batch)).items()}
    keep = [i for i in range(32) if i not in bad]
    check({name: value[keep] for name, value in outputs.items()}, answers(*embedded, good))
    for i, (_, reason) in bad.items():
        assert outputs["status"][i].startswith(reason)
        assert outputs["classes"][i].tolist() == [b""] * 5
        assert outputs["probabilities"][i].tolist() == [0] * 5
        assert outputs["indices"][i].tolist() == [-1] * 5
    for name, output in (("features", "tokens"), ("attention", "rollout")):
        some = signatures[name](tf.constant(batch[:9]))
        assert [np.abs(values).max() > 0 for values in some[output]] == [i not in bad for i in range(9)]
        assert some["status"].numpy().tolist() == outputs["status"][:9].tolist()


@pytest.mark.slow
def test_classify_and_pixels(embedded, exported, images, expected):
    model, processor = embedded
    signatures = tf.saved_model.load(str(exported)).signatures
    examples = []
    for data in (*images, None):
        example = tf.train.Example()
        if data is not None:
            example.features.feature["image_bytes"].bytes_list.value.append(data)
        examples.append(example.SerializeToString())
    outputs = signatures["classify"](tf.constant(examples))
    assert np.abs(outputs["scores"][:-1] - expected[1]).max() <= 1e-5
    names = [[model.config.id2label[i].encode() for i in row] for row in expected[0].tolist()]
    assert outputs["classes"].numpy().tolist() == [*names, [b""] * 5]

    logits = signatures["predict_pixels"](tf.constant(processor(images).pixel_values))["logits"]
    assert np.abs(logits - model.predict_on_batch(processor(images).pixel_values).logits).max() <= 1e-5
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 50, 3), "uint8")
    logits = signatures["predict_uint8"](tf.constant(pixels))["logits"]
    assert np.abs(logits - model.predict_on_batch(processor(pixels).pixel_values).logits).max() <= 1e-5


@pytest.mark.slow
def test_features_and_attention(embedded, exported, images):
    from tfdeit.attention_maps import attention_rollout

    model, processor = embedded
    signatures = tf.saved_model.load(str(exported)).signatures
    pixel_values = processor(images).pixel_values
    outputs = signatures["features"](tf.constant(images))
    tokens = model.backbone(pixel_values).last_hidden_state
    assert np.abs(outputs["tokens"] - tokens).max() <= 1e-4
    assert np.array_equal(outputs["pooled"], outputs["tokens"][:, 0])
    rollout = np.asarray(attention_rollout(model(pixel_values, output_attentions=True).attentions, 2))
    outputs = signatures["attention"](tf.constant(images))
    assert outputs["rollout"].shape == (len(images), 8, 8)
    scaled = rollout / rollout.max(axis=1, keepdims=True)
    assert np.abs(outputs["rollout"] - scaled.reshape(-1, 8, 8)).max() <= 1e-5
    for data, region in zip(images, outputs["region"].numpy(), strict=True):
        sides = np.array(Image.open(io.BytesIO(data)).size[::-1])
        seen = sides.min() / sides  # the square in the middle
        assert np.abs(region - [*(1 - seen) / 2, *(1 + seen) / 2]).max() <= 1 / 32  # up to a pixel of the result


@pytest.mark.slow
def test_batches_of_none(exported):
    for name, function in tf.saved_model.load(str(exported)).signatures.items():
        ((_, spec),) = function.structured_input_signature[1].items()
        outputs = function(tf.zeros([side or (0 if i == 0 else 9) for i, side in enumerate(spec.shape)], spec.dtype))
        assert {value.shape[0] for value in outputs.values()} == {0}, name


CLASSES = [
    tfdeit.TFViTForImageClassification,
    tfdeit.TFDeiTForImageClassification,
    tfdeit.TFDeiTForImageClassificationWithTeacher,
]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"layerscale_value": 0.5, "no_embed_class": True}], ids=["deit", "deit3"])
@pytest.mark.parametrize("cls", CLASSES)
def test_every_class(cls, options, images, tmp_path):
    model = make(cls, **options)
    version = export_saved_model(model, PROCESSOR, tmp_path / "m", top_k=3, labels=list("abcdefg"))
    outputs = tf.saved_model.load(str(version)).signatures["serving_default"](tf.constant(images))
    indices, probabilities = answers(model, PROCESSOR, images, 3)
    check(outputs, (indices, probabilities))
    assert outputs["classes"].numpy().tolist() == [[b"abcdefg"[i : i + 1] for i in row] for row in indices.tolist()]


@pytest.mark.slow
def test_fewer_classes_than_answers(images, tmp_path):
    version = export_saved_model(make(num_labels=2), PROCESSOR, tmp_path / "m")
    outputs = tf.saved_model.load(str(version)).signatures["serving_default"](tf.constant(images))
    assert outputs["classes"].shape == (len(images), 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, images, tmp_path):
    model = make()
    version = export_saved_model(model, PROCESSOR, tmp_path / "m", dtype=dtype, top_k=7)
    assert model.dtype_policy.name == "float32"
    loaded = tf.saved_model.load(str(version))
    assert {variable.dtype.name for variable in loaded.weights} == {dtype}
    outputs = loaded.signatures["serving_default"](tf.constant(images))
    assert outputs["probabilities"].dtype == tf.float32
    scores = np.zeros((len(images), 7))
    np.put_along_axis(scores, outputs["indices"].numpy(), outputs["probabilities"].numpy(), axis=1)
    indices, probabilities = answers(model, PROCESSOR, images, 7)
    whole = np.zeros_like(scores)
    np.put_along_axis(whole, indices, probabilities, axis=1)
    # Logits of the order of 1 after a few roundings of 2^-8 (bfloat16).
    assert np.abs(scores - whole).max() < 0.1
    exact = answers(_cast(model, dtype), PROCESSOR, images, 7)
    assert np.abs(np.sort(outputs["probabilities"])[:, ::-1] - exact[1]).max() <= 1e-5


def _cast(model, dtype):
    """Returns the model in `dtype`, traced for any batch as what is exported: fused kernels round less often."""
    copy = type(model)(model.config, dtype=dtype)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        ours.assign(theirs)
    pixels = tf.TensorSpec((None, *model.config.image_hw, 3), "float32")
    copy.predict_on_batch = tf.function(lambda x: copy(x, training=False), [pixels], autograph=False)
    return copy


# ------------------------------------------------------------------------------------------------------- loaders


@pytest.mark.slow
def test_session_loader_of_tensorflow_1(exported, images, expected):
    """TF Serving's way to load."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(exported)).signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        check(session.run(fetches, {signature.inputs["image_bytes"].name: images}), expected)
        outputs = session.run(fetches, {signature.inputs["image_bytes"].name: [b"", *images]})
        assert outputs["status"].tolist() == [b"the file is empty"] + [b"ok"] * len(images)


@pytest.mark.slow
def test_a_process_without_keras_and_this_library(exported, images, expected, tmp_path):
    for i, data in enumerate(images):
        (tmp_path / f"{i:02}").write_bytes(data)
    code = (
        "import sys, pathlib; sys.modules.update(keras=None, tfdeit=None);"
        "import numpy as np, tensorflow as tf; folder, version, out = sys.argv[1:];"
        "images = [path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())];"
        "outputs = tf.saved_model.load(version).signatures['serving_default'](tf.constant(images));"
        "np.savez(out, **{k: v.numpy() for k, v in outputs.items() if k != 'classes' and k != 'status'})"
    )
    out = tmp_path.parent / "out.npz"
    run(sys.executable, "-c", code, tmp_path, exported, out)
    with np.load(out) as outputs:
        check({**outputs, "status": b"ok"}, expected)


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_saved_model_cli(exported, images, expected, tmp_path):
    np.save(tmp_path / "images.npy", np.array(images, dtype="S"))  # PNG and JPEG end with a byte that is not 0
    command = [Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", exported, "--tag_set", "serve"]
    inputs = ["--signature_def", "serving_default", "--inputs", f"image_bytes={tmp_path}/images.npy"]
    run(*command, *inputs, "--outdir", tmp_path)
    outputs = {name: np.load(tmp_path / f"{name}.npy") for name in ("indices", "probabilities")}
    check({**outputs, "status": b"ok"}, expected)


class CString(ctypes.Structure):
    """TF_TString: the two low bits of the first byte say where the content is."""

    _fields_ = (("size", ctypes.c_uint64), ("capacity_or_view", ctypes.c_uint64), ("pointer", ctypes.c_void_p))

    @classmethod
    def view(cls, data):
        return cls(len(data) << 2 | 3, ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value, None)

    def get(self):
        kind = self.size & 3
        if kind == 0:
            return bytes(self)[1 : 1 + (bytes(self)[0] >> 2)]
        assert kind == 1
        return ctypes.string_at(self.pointer, self.size >> 2)


@pytest.mark.slow
def test_c_api(exported, images, expected):
    """As a program in C, Go, Rust or Java: the functions of libtensorflow, and nothing of Python's."""
    c = ctypes.CDLL(str(Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
    for name in ("NewStatus", "NewGraph", "NewSessionOptions", "LoadSessionFromSavedModel", "GraphOperationByName"):
        getattr(c, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("AllocateTensor", "TensorData"):
        getattr(c, f"TF_{name}").restype = ctypes.c_void_p
    c.TF_Dim.restype, c.TF_Message.restype = ctypes.c_int64, ctypes.c_char_p
    pointer = ctypes.c_void_p

    class Output(ctypes.Structure):
        _fields_ = (("operation", pointer), ("index", ctypes.c_int))

    status, graph = pointer(c.TF_NewStatus()), pointer(c.TF_NewGraph())

    def checked():
        assert c.TF_GetCode(status) == 0, c.TF_Message(status)

    tags = (ctypes.c_char_p * 1)(b"serve")
    path = str(exported).encode()
    options = pointer(c.TF_NewSessionOptions())
    session = pointer(c.TF_LoadSessionFromSavedModel(options, None, path, tags, 1, graph, None, status))
    checked()
    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    meta = saved.meta_graphs[0].signature_def["serving_default"]

    def endpoint(info):
        name, index = info.name.split(":")
        return Output(c.TF_GraphOperationByName(graph, name.encode()), int(index))

    strings = (CString * len(images))(*map(CString.view, images))
    dims = (ctypes.c_int64 * 1)(len(images))
    tensor = pointer(c.TF_AllocateTensor(7, dims, 1, ctypes.c_size_t(ctypes.sizeof(strings))))
    ctypes.memmove(c.TF_TensorData(tensor), strings, ctypes.sizeof(strings))
    names = ("indices", "probabilities", "status")
    inputs = (Output * 1)(endpoint(meta.inputs["image_bytes"]))
    outputs = (Output * 3)(*(endpoint(meta.outputs[name]) for name in names))
    values = (pointer * 3)()
    c.TF_SessionRun(session, None, inputs, (pointer * 1)(tensor), 1, outputs, values, 3, None, 0, None, status)
    checked()
    types = {"indices": ctypes.c_int32, "probabilities": ctypes.c_float, "status": CString}
    found = {}
    for name, value in zip(names, values, strict=True):
        shape = [c.TF_Dim(pointer(value), i) for i in range(c.TF_NumDims(pointer(value)))]
        content = (types[name] * int(np.prod(shape))).from_address(c.TF_TensorData(pointer(value)))
        items = [item.get() for item in content] if name == "status" else list(content)
        found[name] = np.array(items).reshape(shape)
    check(found, expected)


@pytest.mark.slow
def test_warmup_requests(embedded, exported):
    """The messages are those of TF Serving's schema, and each is answered."""
    reason = "pip install tfdeit[serving]"
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=reason)
    signatures = tf.saved_model.load(str(exported)).signatures
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    asked = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.SerializeToString(deterministic=True) == record.numpy()
        if log.WhichOneof("log_type") == "predict_log":
            request = log.predict_log.request
            inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        else:
            request = log.classify_log.request
            examples = request.input.example_list.examples
            inputs = {"inputs": tf.constant([example.SerializeToString() for example in examples])}
        assert request.model_spec.name == "micro"
        name = request.model_spec.signature_name
        outputs = signatures[name](**inputs)
        assert {*outputs.get("status", tf.constant([b"ok"])).numpy()} == {b"ok"}
        asked.add((name, next(iter(outputs.values())).shape[0]))
    assert asked == {(name, batch) for name in signatures for batch in (1, 8)}


# ------------------------------------------------------------------------------------------------- what is written


def test_layout(exported, embedded):
    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    methods = {name: value.method_name for name, value in saved.meta_graphs[0].signature_def.items()}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert methods.pop("__saved_model_init_op") is not None
    assert set(methods.values()) == {"tensorflow/serving/predict"}
    assert exported.name == "1"
    assert oct(exported.stat().st_mode)[-3:] == "755"
    assert {path.name for path in exported.parent.iterdir()} == {
        "1", "README.md", "batching_parameters.txt", "models.config"
    }  # fmt: skip
    weights = 4 * embedded[0].count_params()
    assert 1 <= sum(path.stat().st_size for path in (exported / "variables").iterdir()) / weights < 1.01
    # The graph and the warm-up requests do not grow with the width of the model.
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) < weights + 3e6


def test_configuration_and_snippets(exported):
    directory = exported.parent
    readme = (directory / "README.md").read_text(encoding="utf-8")
    assert "@" not in readme.replace("@_", "")
    for block in readme.split("```python\n")[1:]:
        compile(block.split("```")[0], "README.md", "exec")
    assert '-v "$PWD":/models/micro:ro' in readme
    assert '"http://localhost:8501/v1/models/micro:predict"' in readme
    assert "| `serving_default` | `image_bytes` (B) string |" in readme
    config = (directory / "models.config").read_text(encoding="utf-8")
    schema = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason="pip install tfdeit[serving]"
    )
    from google.protobuf import text_format

    parsed = text_format.Parse(config, schema.ModelServerConfig())
    (served,) = parsed.model_config_list.config
    assert (served.name, served.base_path, served.model_platform) == ("micro", "/models/micro", "tensorflow")


@pytest.mark.slow
def test_versions(tmp_path):
    model = make()
    assert export_saved_model(model, PROCESSOR, tmp_path / "m").name == "1"
    (tmp_path / "m" / "7").mkdir()
    assert export_saved_model(model, PROCESSOR, tmp_path / "m").name == "8"


def test_wrong_arguments(tmp_path, monkeypatch):
    model, out = make(), tmp_path / "out"
    (tmp_path / "labels.txt").write_text("a\nb\n")
    backbone = tfdeit.TFViTModel(tfdeit.ViTConfig(**MICRO))
    masked = tfdeit.TFViTForMaskedImageModeling(tfdeit.ViTConfig(**MICRO, encoder_stride=8))
    headless = make(num_labels=0)
    for wrong in (backbone, masked, headless):
        with pytest.raises(ValueError, match="Expected a classifier with classes. Received: a TFViT"):
            export_saved_model(wrong, PROCESSOR, out)
    for top_k in (0, 8):
        with pytest.raises(ValueError, match=rf"top_k from 1 to the number of classes, 7. Received: top_k={top_k}"):
            export_saved_model(model, PROCESSOR, out, top_k=top_k)
    for labels in (["a", "b"], tmp_path / "labels.txt"):
        with pytest.raises(ValueError, match="Expected a label for each of 7 classes. Received: 2 labels"):
            export_saved_model(model, PROCESSOR, out, labels=labels)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        export_saved_model(model, PROCESSOR, out, labels=tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="Expected an image processor that makes images of 32x32"):
        export_saved_model(model, DeiTImageProcessor(), out)
    with pytest.raises(ValueError, match="Expected a new or empty directory.*holds labels.txt"):
        export_saved_model(model, PROCESSOR, tmp_path)
    with pytest.raises((FileExistsError, NotADirectoryError)):
        export_saved_model(model, PROCESSOR, tmp_path / "labels.txt")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Expected Keras' TensorFlow backend.*Received: jax"):
        export_saved_model(model, PROCESSOR, out)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.txt"]


@pytest.mark.slow
def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    (tmp_path / "old" / "1").mkdir(parents=True)
    for directory in ("new", "old"):
        with pytest.raises(OSError, match="the disk is full"):
            export_saved_model(make(), PROCESSOR, tmp_path / directory)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["old", "old/1"]


# ------------------------------------------------------------------------------------------------------ documents


def blocks(language):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split(f"```{language}\n")[1:]]


@pytest.mark.slow
def test_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export, bulk_inferrer = blocks("python")
    exec(export, {})
    assert (tmp_path / "exported" / "1" / "saved_model.pb").is_file()
    compile(bulk_inferrer, "serving.md", "exec")


@pytest.mark.slow
def test_tfjs_node(exported, images, expected, tmp_path):
    """TensorFlow.js in Node.js: its own source, built against the library that comes with TensorFlow."""
    node, npm, compiler = (shutil.which(name) for name in ("node", "npm", "g++"))
    headers = Path(node or "/").resolve().parent.parent / "include" / "node"
    if not (npm and compiler and (headers / "node_api.h").is_file()):
        pytest.skip("needs node with its headers, npm and g++")
    (tmp_path / "package.json").write_text("{}")
    package = "@tensorflow/tfjs-node"
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", f"{package}@4.22.0"]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install {package}: {done.stderr[-200:]}")
    package = tmp_path / "node_modules" / package
    library, target = Path(tf.__file__).parent, package / "lib" / "napi-v8" / "tfjs_binding.node"
    target.parent.mkdir(parents=True)
    sources = sorted((package / "binding").glob("*.cc"))
    libraries = [library / name for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")]
    includes = [f"-I{path}" for path in (headers, library / "include", package)]
    flags = ["-std=c++17", "-fPIC", "-shared", "-DNAPI_VERSION=8", *includes, f"-Wl,-rpath,{library}"]
    run(compiler, *flags, *sources, *libraries, "-o", target)
    (script,) = blocks("js")
    (tmp_path / "score.js").write_text(script)
    files = [tmp_path / f"{i}" for i in range(len(images) + 1)]
    for path, data in zip(files, [*images, b"text"], strict=True):
        path.write_bytes(data)
    outputs = json.loads(run(node, tmp_path / "score.js", exported, *files).splitlines()[-1])
    assert outputs["status"] == ["ok"] * len(images) + ["not a JPEG, PNG, BMP or WebP image"]
    good = {name: np.array(values[:-1]) for name, values in outputs.items()}
    check({**good, "status": np.char.encode(good["status"])}, expected)


@pytest.mark.slow
def test_serve_with_kserve(engines_python, exported, images, expected, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    script = ROOT / "examples" / "serve_with_kserve.py"
    options = ["--model_name", "micro", "--http_port", str(port), "--enable_grpc", "false"]
    url = f"http://127.0.0.1:{port}/v1/models/micro"
    instances = [{"b64": base64.b64encode(data).decode()} for data in (*images, b"text")]
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}:predict", json.dumps({"instances": instances}).encode(), headers)
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen([engines_python, script, exported, *options], stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(url).close()
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.2)
            with urllib.request.urlopen(request) as response:
                *good, bad = json.load(response)["predictions"]
        finally:
            server.terminate()
            server.wait(30)
    assert bad["status"] == "not a JPEG, PNG, BMP or WebP image"
    outputs = {name: np.array([row[name] for row in good]) for name in ("indices", "probabilities", "status")}
    check({**outputs, "status": np.char.encode(outputs["status"])}, expected)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_score_with_beam(suffix, engines_python, exported, photos_dir, expected, tmp_path):
    broken, listed, output = tmp_path / "broken.png", tmp_path / "list.txt", tmp_path / f"out.{suffix}"
    broken.write_text("text")
    listed.write_text(f"{broken}\n{tmp_path}/absent.jpg\n")
    script = ROOT / "examples" / "score_with_beam.py"
    run(engines_python, script, exported, f"{photos_dir}/*g", listed, "-o", output)
    lines = output.read_text().splitlines()
    if suffix == "csv":
        rows = {row["path"]: row for row in csv.DictReader(lines)}
        best = {path: (int(row["index"]), float(row["probability"])) for path, row in rows.items() if not row["error"]}
    else:
        rows = {row["path"]: row for row in map(json.loads, lines)}
        answered = {path: row["predictions"] for path, row in rows.items() if not row["error"]}
        assert all(len(predictions) == 5 for predictions in answered.values())
        best = {path: (row[0]["index"], row[0]["probability"]) for path, row in answered.items()}
    assert rows.pop(str(broken))["error"] == "not a JPEG, PNG, BMP or WebP image"
    assert rows.pop(f"{tmp_path}/absent.jpg")["error"].startswith("cannot be read")
    photos = sorted(str(path) for path in photos_dir.glob("*g"))
    assert sorted(rows) == photos
    for path, indices, probabilities in zip(photos, *expected, strict=True):
        assert best[path][0] == indices[0]
        assert abs(best[path][1] - probabilities[0]) <= 1e-5
