"""`tfdeit serve` on a real export: it answers as `tfdeit predict` does, and under load nothing is wrong or lost."""

import base64
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import running_server
import tensorflow as tf
from conftest import ROOT

from tfdeit.inference.classifier import load_classifier

grpc = pytest.importorskip("grpc")
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from tfdeit.exports.saved_model.export import export_saved_model  # noqa: E402

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5  # of a probability


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "micro"
    export_saved_model(*load_classifier("deit_micro_cifar10", None), directory)
    return directory


@pytest.fixture(scope="module")
def server(directory):
    with running_server.running_server(directory, name="micro") as server:
        yield server


@pytest.fixture(scope="module")
def predicted(shared_images):
    """What `tfdeit predict` says of real photos: path -> (labels, probabilities)."""
    command = [sys.executable, "-m", "tfdeit", "predict", *map(str, shared_images), "--top-k", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=True)
    rows = map(json.loads, done.stdout.splitlines())
    return {
        row["path"]: tuple([guess[key] for guess in row["predictions"]] for key in ("label", "probability"))
        for row in rows
    }


def in_batches(paths, size=16):
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def test_rest_is_predict(server, predicted):
    for paths in in_batches(list(predicted)):
        contents = [base64.b64encode(Path(path).read_bytes()).decode() for path in paths]
        status, answer = server.post("/v1/models/micro:predict", {"instances": [{"b64": text} for text in contents]})
        assert status == 200
        for path, row in zip(paths, answer["predictions"], strict=True):
            labels, probabilities = predicted[path]
            assert (row["status"], row["classes"]) == ("ok", labels), path
            np.testing.assert_allclose(row["probabilities"], probabilities, atol=TOLERANCE)

        body = {"signature_name": "classify", "examples": [{"image_bytes": {"b64": text}} for text in contents]}
        status, answer = server.post("/v1/models/micro:classify", body)
        for path, row in zip(paths, answer["results"], strict=True):
            assert [label for label, _ in row] == predicted[path][0]
            np.testing.assert_allclose([score for _, score in row], predicted[path][1], atol=TOLERANCE)


def test_grpc_is_predict(server, predicted):
    with grpc.insecure_channel(server.server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for paths in in_batches(list(predicted)):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "micro"
            contents = tf.make_tensor_proto([Path(path).read_bytes() for path in paths])
            request.inputs["image_bytes"].CopyFrom(contents)
            outputs = {
                name: tf.make_ndarray(proto) for name, proto in stub.Predict(request, timeout=60).outputs.items()
            }
            for i, path in enumerate(paths):
                assert [name.decode() for name in outputs["classes"][i]] == predicted[path][0]
                np.testing.assert_allclose(outputs["probabilities"][i], predicted[path][1], atol=TOLERANCE)


def test_attention_and_features(server, photos_dir):
    image = {"b64": base64.b64encode((photos_dir / "cat.png").read_bytes()).decode()}
    bad = {"b64": base64.b64encode(b"no image").decode()}
    for signature, name, shape in (("attention", "rollout", (8, 8)), ("features", "pooled", (128,))):
        body = {"signature_name": signature, "instances": [image, bad]}
        good, failed = server.post("/v1/models/micro:predict", body)[1]["predictions"]
        assert good["status"] == "ok"
        assert np.shape(good[name]) == shape
        assert np.abs(good[name]).max() > 0
        assert failed["status"] != "ok"
        assert not np.any(failed[name])


def test_uint8_of_several_sizes_at_once(server, rng):
    images = [rng.integers(0, 256, (1, *size, 3)) for size in [(40, 50), (33, 32), (40, 50), (64, 48)] * 3]

    def ask(image):
        return server.post("/v1/models/micro:predict", {"signature_name": "predict_uint8", "inputs": image.tolist()})

    alone = [ask(image) for image in images]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, images))
    for (status, one), (_, other) in zip(alone, together, strict=True):
        assert status == 200
        np.testing.assert_allclose(other["outputs"], one["outputs"], atol=1e-4)


def test_the_guide(server, tmp_path, capfd):
    """The commands and the Python of docs/serve.md work as written, but for the ports."""
    guide = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    guide = guide.replace("http://127.0.0.1:8501", server.url).replace("127.0.0.1:8500", server.server.grpc_address)
    start, curl = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    export = re.search(r"^tfdeit (export .*)$", start, re.MULTILINE)[1].split()
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "tfdeit", *export], cwd=tmp_path, env=environ, check=True)
    assert (tmp_path / "micro" / "1" / "saved_model.pb").exists()

    commands = (
        f'curl() {{ command curl --silent --show-error --fail-with-body "$@"; echo; }}\nset -e -o pipefail\n{curl}'
    )
    done = subprocess.run(["bash", "-c", commands], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    status, metadata, uint8, predict, classify = map(json.loads, done.stdout.splitlines())
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]
    assert np.shape(uint8["predictions"]) == (1, 10)
    assert predict["predictions"][0]["classes"][0] == classify["results"][0][0][0] == "cat"

    capfd.readouterr()
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True)
        assert capfd.readouterr().out.startswith("ok cat")


def test_the_readme_of_an_export(server, directory, photos_dir):
    """Its clients work as written, but for the ports."""
    readme = (directory / "README.md").read_text(encoding="utf-8")
    readme = readme.replace("http://localhost:8501", server.url).replace("localhost:8500", server.server.grpc_address)
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        command = [sys.executable, "-c", block, str(photos_dir / "cat.png")]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert answer.startswith("ok ['cat', ")


def test_load(shared_images):
    """Ten seconds of the benchmark: 64 clients, good and bad requests, and a signal to stop while they are running."""
    command = [sys.executable, "benchmarks/server.py", "--seconds", "10", "--rounds", "0", "--photos"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, shared_images[0].parent], capture_output=True, text=True, timeout=900, cwd=ROOT, env=env, check=True
    )
    load = json.loads(done.stdout)
    assert load["answers"] > load["clients"]
    assert load["answers"] == load["answers_says_server"]
    assert (load["wrong"], load["lost"], load["exit_status"]) == (0, 0, 0), done.stdout
    assert load["refused_after_sigterm"] > 0
