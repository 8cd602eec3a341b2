"""TensorFlow Serving's gRPC protocol, with the stubs of tensorflow-serving-api, on a toy SavedModel in this process."""

import asyncio

import numpy as np
import pytest
import running_server  # skips these tests if a library is missing
import tensorflow as tf
import toy_savedmodel
from tensorflow.core.framework import tensor_pb2

grpc = pytest.importorskip("grpc")
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tfdeit.server import grpc_front  # noqa: E402
from tfdeit.server.service import LARGE, Limits  # noqa: E402

LIMITS = Limits(batch_timeout=0.002, max_body=200_000, max_instances=16)


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy")
    toy_savedmodel.save(directory / "1")
    with (
        running_server.running_server(directory, LIMITS, labels={"stable": 1}) as server,
        grpc.insecure_channel(server.server.grpc_address) as channel,
    ):
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(inputs, signature="", outputs=(), model="toy", version=None, label=""):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(
            value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        )
    return request


def failure(call, request):
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=30)
    return raised.value.code(), raised.value.details()


@pytest.mark.parametrize("spec", [{}, {"version": 1}, {"label": "stable"}, {"signature": "serving_default"}])
def test_predict(stub, spec):
    response = stub.Predict(predict_request({"image_bytes": [b"\xff", b""]}, **spec), timeout=30)
    outputs = {name: tf.make_ndarray(proto).tolist() for name, proto in response.outputs.items()}
    assert outputs == {
        "classes": [[b"short", b"long"], [b"", b""]],
        "probabilities": [[0.75, 0.25], [0, 0]],
        "indices": [[0, 1], [-1, -1]],
        "status": [b"ok", b"the image is empty"],
    }
    assert response.model_spec.name == "toy"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    # The fields that clients without tf.make_ndarray read.
    assert list(response.outputs["probabilities"].float_val) == [0.75, 0.25, 0, 0]
    assert list(response.outputs["classes"].string_val) == [b"short", b"long", b"", b""]


def test_large_messages_are_read_aside(stub, monkeypatch):
    """In a thread, so that the event loop can go on with other requests."""
    loops, read = [], grpc_front.read_tensor

    def watched(*args):
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)
        return read(*args)

    monkeypatch.setattr(grpc_front, "read_tensor", watched)
    for size in (1, LARGE):
        response = stub.Predict(predict_request({"image_bytes": [b"x" * size]}, outputs=["status"]), timeout=30)
        assert list(response.outputs["status"].string_val) == [b"ok"]
    assert loops == [True, False]


def test_output_filter(stub):
    response = stub.Predict(predict_request({"image_bytes": [b"a"]}, outputs=["status"]), timeout=30)
    assert list(response.outputs) == ["status"]


def test_every_type_comes_back(stub):
    values = {name: np.array([0, 1], dtype.as_numpy_dtype) for name, dtype in toy_savedmodel.ANY_TYPE.items()}
    response = stub.Predict(predict_request(values, "types"), timeout=30)
    for name, value in values.items():
        found = tf.make_ndarray(response.outputs[name])
        assert found.dtype == value.dtype
        assert found.tolist() == value.tolist()


def bomb():
    """A message of a few bytes that describes 40 GB."""
    proto = tf.make_tensor_proto(1.0)
    proto.tensor_shape.dim.add(size=10**10)
    return proto


def broken(**fields):
    proto = tf.make_tensor_proto(np.ones(4, "float32"))
    for size in fields.pop("shape", ()):
        proto.tensor_shape.dim.add(size=size)
    for name, value in fields.items():
        setattr(proto, name, value)
    return proto


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (predict_request({"image_bytes": [b"a"]}, model="other"), "NOT_FOUND", "toy"),
        (predict_request({"image_bytes": [b"a"]}, version=2), "NOT_FOUND", "[1]"),
        (predict_request({"image_bytes": [b"a"]}, label="x"), "FAILED_PRECONDITION", "stable"),
        (predict_request({"image_bytes": [b"a"]}, "none"), "INVALID_ARGUMENT", "serving_default"),
        (predict_request({}), "INVALID_ARGUMENT", "image_bytes"),
        (predict_request({"image_bytes": [b"a"], "more": 1}), "INVALID_ARGUMENT", "more"),
        (predict_request({"image_bytes": [1.0]}), "INVALID_ARGUMENT", "string"),
        (predict_request({"image_bytes": b"a"}), "INVALID_ARGUMENT", "shape"),
        (predict_request({"image_bytes": [b"a"]}, outputs=["none"]), "INVALID_ARGUMENT", "status"),
        (predict_request({"image_bytes": [b"a"]}, outputs=["status", "status"]), "INVALID_ARGUMENT", "distinct"),
        (predict_request({"image_bytes": [b"a"] * 17}), "INVALID_ARGUMENT", "16 rows"),
        (predict_request({"a": np.ones(2, "float64"), "b": np.ones(2, "float32")}, "divide"), "INVALID_ARGUMENT", "a"),
        (predict_request({"a": bomb(), "b": [1.0]}, "divide"), "INVALID_ARGUMENT", "200000 bytes"),
        (predict_request({"a": broken(shape=[3]), "b": [1.0]}, "divide"), "INVALID_ARGUMENT", "a"),
        (predict_request({"a": broken(shape=[-1]), "b": [1.0]}, "divide"), "INVALID_ARGUMENT", "a"),
        (predict_request({"a": broken(tensor_content=b"123"), "b": [1.0]}, "divide"), "INVALID_ARGUMENT", "a"),
        (predict_request({"a": broken(dtype=99), "b": [1.0]}, "divide"), "INVALID_ARGUMENT", "a"),
        (
            predict_request({"pixel_values": np.full((1, 2, 2, 3), -1, "float32")}, "predict_pixels"),
            "INVALID_ARGUMENT",
            "neg",
        ),
        (predict_request({"image_bytes": [b"a" * LIMITS.max_body]}), "RESOURCE_EXHAUSTED", "larger"),
    ],
)
def test_bad_predict(stub, request_, code, word):
    found, details = failure(stub.Predict, request_)
    assert found.name == code
    assert word in details


def examples(count=1):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"more than eight"]))
    return [tf.train.Example(features=tf.train.Features(feature={"image_bytes": feature}))] * count


def classify_request(signature="classify", context=(), **lists):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = signature
    if context:
        request.input.example_list_with_context.context.CopyFrom(context[0])
        request.input.example_list_with_context.examples.extend(lists["examples"])
    elif lists:
        request.input.example_list.examples.extend(lists["examples"])
    return request


@pytest.mark.parametrize(
    "request_",
    [classify_request(examples=examples(2)), classify_request(context=examples(), examples=[tf.train.Example()] * 2)],
)
def test_classify(stub, request_):
    response = stub.Classify(request_, timeout=30)
    rows = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
    assert rows == [[("long", 0.75), ("short", 0.25)]] * 2
    assert response.model_spec.signature_name == "classify"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (classify_request(), "INVALID_ARGUMENT"),
        (classify_request(examples=[tf.train.Example()]), "INVALID_ARGUMENT"),
        (classify_request("serving_default", examples=examples()), "FAILED_PRECONDITION"),
        (classify_request("silent", examples=examples()), "FAILED_PRECONDITION"),
        (classify_request("none", examples=examples()), "INVALID_ARGUMENT"),
    ],
)
def test_bad_classify(stub, request_, code):
    assert failure(stub.Classify, request_)[0].name == code


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "toy"
    response = stub.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["image_bytes"].dtype == tf.string.as_datatype_enum
    assert response.model_spec.version.value == 1
    request.metadata_field.append("more")
    assert failure(stub.GetModelMetadata, request)[0].name == "INVALID_ARGUMENT"


def test_what_there_is_not(stub, channel):
    for call, message in (
        (stub.Regress, regression_pb2.RegressionRequest()),
        (stub.MultiInference, inference_pb2.MultiInferenceRequest()),
        (
            model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest,
            model_management_pb2.ReloadConfigRequest(),
        ),
    ):
        assert failure(call, message)[0].name == "UNIMPLEMENTED"


def test_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    (row,) = stub.GetModelStatus(request, timeout=30).model_version_status
    assert row.version == 1
    assert row.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    request.model_spec.version.value = 3
    assert failure(stub.GetModelStatus, request)[0].name == "NOT_FOUND"


def test_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "tensorflow.serving.PredictionService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
