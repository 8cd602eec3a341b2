"""Exported SavedModels in every loader: TensorFlow 1's, C, command line, Node.js, KServe, Beam; their warm-up."""

import base64
import csv
import ctypes
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from served import blocks, check, run
from tensorflow.core.protobuf import saved_model_pb2


@pytest.mark.slow
def test_session_loader_of_tensorflow_1(exported, images, expected):
    """The way TF Serving loads a model."""
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
    """Like a program in C, Go, Rust or Java: with the functions of libtensorflow, and none of Python's."""
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
