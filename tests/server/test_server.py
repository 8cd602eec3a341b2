"""TensorFlow Serving's REST protocol, on a toy SavedModel and in this process."""

import base64
import gzip
import json
import math
import socket

import numpy as np
import pytest
import toy_savedmodel
from running_server import request, running_server

from tfdeit.server.service import Limits

LIMITS = Limits(batch_timeout=0.002, max_body=200_000, max_instances=16)


def b64(data: bytes):
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy")
    toy_savedmodel.save(directory / "1")
    return directory


@pytest.fixture(scope="module")
def server(base_path):
    with running_server(base_path, LIMITS, labels={"stable": 1}) as server:
        yield server


AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize("path", ["", "/versions/1", "/labels/stable"])
def test_status(server, path):
    assert server.get(f"/v1/models/toy{path}") == (200, {"model_version_status": [AVAILABLE]})


@pytest.mark.parametrize("path", ["", "/versions/1", "/labels/stable"])
def test_metadata(server, path):
    status, answer = server.get(f"/v1/models/toy{path}/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    image_bytes = signature["inputs"]["image_bytes"]
    assert image_bytes["dtype"] == "DT_STRING"
    assert image_bytes["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert set(signature["outputs"]) == {"classes", "probabilities", "indices", "status"}


SHORT = {"classes": ["short", "long"], "probabilities": [0.75, 0.25], "indices": [0, 1], "status": "ok"}
LONG = {"classes": ["long", "short"], "probabilities": [0.75, 0.25], "indices": [1, 0], "status": "ok"}
BAD = {"classes": ["", ""], "probabilities": [0.0, 0.0], "indices": [-1, -1], "status": "the image is empty"}


def test_predict_by_row(server):
    instances = [b64(b"\xff\xd8"), "more than eight", ""]
    assert server.predict({"instances": instances}) == {"predictions": [SHORT, LONG, BAD]}
    named = [{"image_bytes": instance} for instance in instances]
    assert server.predict({"instances": named, "signature_name": "serving_default"}) == {
        "predictions": [SHORT, LONG, BAD]
    }


def test_predict_by_column(server):
    columns = {name: [row[name] for row in (SHORT, BAD)] for name in SHORT}
    assert server.predict({"inputs": [b64(b"\xff\xd8"), ""]}) == {"outputs": columns}
    assert server.predict({"inputs": {"image_bytes": [b64(b"\xff\xd8"), ""]}}) == {"outputs": columns}
    assert server.predict({"inputs": []})["outputs"]["classes"] == []


def test_one_output_goes_without_its_name(server):
    pixels = np.arange(24.0).reshape(2, 2, 2, 3)
    logits = pixels.sum((1, 2)).tolist()
    body = {"signature_name": "predict_pixels"}
    assert server.predict(body | {"instances": pixels.tolist()}) == {"predictions": logits}
    assert server.predict(body | {"inputs": pixels.tolist()}) == {"outputs": logits}


def test_no_output(server):
    answer = server.post("/v1/models/toy:predict", {"signature_name": "silent", "inputs": ["a"]})
    assert answer == (200, {"outputs": {}})


def test_several_inputs(server):
    rows = [{"a": 1, "b": 4.0}, {"a": 0.1, "b": 1}]
    answer = server.predict({"signature_name": "divide", "instances": rows})
    assert answer == {"predictions": [{"quotient": 0.25, "rows": 2.0}, {"quotient": 0.1, "rows": 2.0}]}
    assert server.predict({"signature_name": "divide", "inputs": {"a": [1], "b": [3]}})["outputs"]["quotient"] == [
        float(str(np.float32(1) / np.float32(3)))  # the fewest digits
    ]


def test_not_a_number(server):
    body = b'{"signature_name": "divide", "inputs": {"a": [NaN, Infinity, -Infinity, 0], "b": [1, 1, 1, 0]}}'
    values = server.predict(body)["outputs"]["quotient"]
    assert [math.isnan(value) for value in values] == [True, False, False, True]
    assert values[1:3] == [math.inf, -math.inf]


def test_strings_and_bytes(server):
    texts = ["déjà vu \u2603", "", b64(b"abc"), b64(b"abcd")]
    plain = ["déjà vu \u2603", "", "abc", "abcd"]
    rows = server.predict({"signature_name": "echo", "instances": texts})["predictions"]
    assert rows == [{"text": text, "text_bytes": b64(text.encode())} for text in plain]
    unpadded = [{"b64": "YWJjZA"}, {"b64": "YWJj\nZA=="}]
    assert server.predict({"signature_name": "echo", "inputs": unpadded})["outputs"]["text"] == ["abcd", "abcd"]
    answer = server.predict({"signature_name": "echo", "instances": [b64(b"\xff")]}, status=500)
    assert "_bytes" in answer["error"]


def test_scalar(server):
    assert server.predict({"signature_name": "scalar", "inputs": 2}) == {"outputs": 3.0}
    server.predict({"signature_name": "scalar", "instances": [2]}, status=400)  # it has no rows


def test_every_type(server):
    row = {"bool": True, "int8": -128, "uint8": 255, "int64": -(2**63), "uint32": 2**32 - 1}
    row |= {"float16": 0.5, "float64": 0.1}
    assert server.predict({"signature_name": "types", "instances": [row]}) == {"predictions": [row]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bool", 1),
        ("int8", 128),
        ("uint8", -1),
        ("uint8", 1.0),
        ("uint8", True),
        ("int64", 2**63),
        ("int64", None),
        ("uint32", "1"),
        ("float16", 70000.0),
        ("float16", False),
        ("float64", {"b64": "AAAA"}),
    ],
)
def test_wrong_types(server, name, value):
    row = {"bool": True, "int8": 0, "uint8": 0, "int64": 0, "uint32": 0, "float16": 0, "float64": 0} | {name: value}
    answer = server.predict({"signature_name": "types", "instances": [row]}, status=400)
    assert name in answer["error"]


DEEP = b'{"instances": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b'{"instances": ["a"]', "JSON"),
        (DEEP, "JSON"),
        (b'{"instances": [1' + b"0" * 5000 + b"]}", "JSON"),
        (b"[1]", "object"),
        (b"{}", "instances"),
        ({"instances": ["a"], "inputs": ["a"]}, "instances"),
        ({"instances": []}, "at least one"),
        ({"instances": "a"}, "list"),
        ({"instances": [1]}, "image_bytes"),
        ({"instances": [["a"], ["b", "c"]]}, "lists"),
        ({"instances": [["a"]]}, "shape"),
        ({"instances": ["a", {"image_bytes": "b"}]}, "image_bytes"),
        ({"instances": [{"image": "a"}]}, "image_bytes"),
        ({"instances": [{"b64": "*"}]}, "base64"),
        ({"instances": [{"b64": 1}]}, "image_bytes"),
        ({"instances": ["\ud800"]}, "image_bytes"),
        ({"instances": ["a"], "signature_name": 1}, "signature_name"),
        ({"instances": ["a"], "signature_name": "no such"}, "serving_default"),
        ({"instances": ["a"] * 17}, "16 rows"),
        ({"inputs": {"image": "a"}}, "image_bytes"),
        ({"signature_name": "divide", "instances": [1]}, "a"),
        ({"signature_name": "divide", "inputs": [1]}, "a"),
        ({"signature_name": "divide", "inputs": {"a": [1e39], "b": [1]}}, "float32"),
        ({"signature_name": "divide", "inputs": {"a": [2**24 + 1], "b": [1]}}, "float32"),
        ({"signature_name": "divide", "inputs": {"a": [1, 2, 3], "b": [1, 2]}}, "shape"),  # TensorFlow's own
        ({"signature_name": "predict_pixels", "instances": [[[[1, 2, 3]]]]}, "shape"),
        ({"signature_name": "predict_pixels", "instances": np.full((1, 2, 2, 3), -1).tolist()}, "negative pixels"),
    ],
)
def test_bad_requests(server, body, word):
    answer = server.predict(body, status=400)
    assert list(answer) == ["error"]
    assert word in answer["error"]
    assert len(answer["error"]) < 1500


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/other", 404),
        ("/v1/models/toy/versions/2", 404),
        ("/v1/models/toy/labels/canary", 400),
        ("/v1/models/toy/versions/99999999999999999999", 400),
        (f"/v1/models/toy/versions/{'0' * 20}{'9' * 20}", 400),
        ("/v1/models/other/metadata", 404),
        ("/v1/models", 400),
        ("/v1/models/toy:predict", 400),
        ("/v1/nothing", 400),
        ("/v1/a%0Ab", 400),
        ("/nothing", 404),
    ],
)
def test_wrong_addresses(server, path, status):
    found, answer = server.get(path)
    assert (found, list(answer)) == (status, ["error"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/other:predict", 404),
        ("/v1/models/toy/versions/7:predict", 404),
        ("/v1/models/toy/labels/canary:predict", 400),
        ("/v1/models/toy:regress", 501),
        ("/v1/models/toy:explain", 400),
        ("/v1/models/toy", 400),
        ("/V1/Models/toy/Versions/1:Predict", 200),
        (f"/v1/models/toy/versions/{'0' * 5000}1:predict", 200),
        ("/v1/models/t%6Fy/labels/stable:predict", 200),
    ],
)
def test_addresses(server, path, status):
    assert server.post(path, {"instances": ["a"]})[0] == status


def test_other_methods(server):
    assert request(f"{server.url}/v1/models/toy", method="DELETE")[0] == 400
    assert request(f"{server.url}/", b"", method="POST")[0] == 405


def test_body_limit(server):
    body = json.dumps({"instances": ["x" * LIMITS.max_body]}).encode()
    assert server.post("/v1/models/toy:predict", body)[0] == 413
    zipped = gzip.compress(body)
    assert len(zipped) < 1000
    assert server.post("/v1/models/toy:predict", zipped, Content_Encoding="gzip")[0] == 413
    small = gzip.compress(b'{"instances": ["a"]}')
    assert server.post("/v1/models/toy:predict", small, Content_Encoding="gzip") == (200, {"predictions": [SHORT]})
    assert server.post("/v1/models/toy:predict", b"no gzip", Content_Encoding="gzip")[0] == 400


def classify(server, body, status=200):
    found, answer = server.post("/v1/models/toy:classify", body)
    assert found == status, answer
    return answer


def test_classify(server):
    body = {"signature_name": "classify"}
    examples = [{"image_bytes": b64(b"\xff")}, {"image_bytes": ["more than eight"], "other": [1, 2]}]
    results = [[["short", 0.75], ["long", 0.25]], [["long", 0.75], ["short", 0.25]]]
    assert classify(server, body | {"examples": examples}) == {"results": results}
    context = {"image_bytes": "more than eight", "weight": 0.5}
    assert classify(server, body | {"examples": [{}, {"n": True}], "context": context}) == {"results": [results[1]] * 2}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"examples": []},
        {"examples": {}},
        {"examples": [1]},
        {"examples": [{"image_bytes": None}]},
        {"examples": [{"image_bytes": [1, "a"]}]},
        {"examples": [{"image_bytes": [["a"]]}]},
        {"examples": [{"image_bytes": {"b64": "*"}}]},
        {"examples": [{"image_bytes": "a", "n": 2**63}]},
        {"examples": [{}]},  # the graph needs image_bytes
        {"examples": [{"image_bytes": 1.5}]},  # the graph needs bytes
        {"examples": [{"image_bytes": "a"}], "context": 1},
        {"examples": [{"image_bytes": "a"}], "signature_name": "serving_default"},
        {"examples": [{"image_bytes": "a"}], "signature_name": "silent"},
        {"examples": [{"image_bytes": "a"}], "signature_name": "no such"},
    ],
)
def test_bad_classify(server, body):
    assert list(classify(server, {"signature_name": "classify"} | body, status=400)) == ["error"]


def test_health_and_metrics(server):
    assert server.get("/healthz") == (200, "ok\n")

    def count():
        status, text = server.get("/monitoring/prometheus/metrics")
        assert status == 200
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    ok = 'tfdeit_requests_total{api="predict",entrypoint="REST",status="OK"}'
    before = count()
    server.predict({"instances": ["a", "b"]})
    server.get("/v1/models/" + "x" * 50)
    after = count()
    assert float(after[ok]) - float(before.get(ok, 0)) == 1
    assert float(after["tfdeit_batch_rows_sum"]) - float(before["tfdeit_batch_rows_sum"]) == 2
    assert after['tfdeit_request_seconds_count{api="predict",entrypoint="REST"}'] >= after[ok]
    assert float(after["tfdeit_requests_in_flight"]) == float(after["tfdeit_queue_depth"]) == 0
    assert not any("xxx" in name for name in after)  # a client cannot add series


def test_a_full_queue_refuses(base_path):
    with running_server(base_path, Limits(max_queue=0)) as server:
        assert "try again" in server.predict({"instances": ["a"]}, status=503)["error"]
        assert server.get("/healthz")[0] == 200


def test_page_is_closed_to_the_outside(server):
    status, text = server.get("/")
    assert status == 200
    assert "toy" in text
    with socket.create_connection(("127.0.0.1", server.server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        header = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].decode()
    assert "default-src 'none'; script-src 'sha256-" in header
    assert "unsafe" not in header
