"""TensorFlow Serving's gRPC API: PredictionService and ModelService."""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfdeit.server.errors import ServingError, invalid
from tfdeit.server.models import read_examples
from tfdeit.server.service import Service, aside

TensorProto: Any = type(tf.make_tensor_proto(0))  # TensorFlow documents no public name for it
# Type -> field of TensorProto. TensorFlow Serving fills these fields, and many clients read no others.
FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    **dict.fromkeys((tf.int8, tf.int16, tf.int32, tf.uint8, tf.uint16), "int_val"),
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


async def build_grpc(service: Service, host: str, port: int) -> tuple[grpc.aio.Server, health.aio.HealthServicer, int]:
    """Returns a server that is not yet started, its health service, and the port that it is bound to.

    Args:
        service: answers the requests.
        host: the address to listen on.
        port: the port; 0 for a free one.

    Raises:
        OSError: if the port cannot be bound.
    """
    options = [
        ("grpc.so_reuseport", 0),  # a second server on the same port is an error
        ("grpc.max_receive_message_length", service.limits.max_body),
        ("grpc.max_send_message_length", -1),
    ]
    # A message is read before it can be admitted. Twice the queue, so that most refusals come from `Service.account`.
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2 * service.limits.max_queue + 2)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionServicer(service), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(service), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        return server, checks, server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(
            f"Expected port {port} of {host} to be free for gRPC. {error}: pass another --grpc-port"
        ) from None


class PredictionServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify and GetModelMetadata. The base class refuses Regress and MultiInference: UNIMPLEMENTED."""

    def __init__(self, service: Service):
        self._service = service

    async def Predict(self, request, context):
        """Runs a signature on named tensors."""
        return await answer(self._service, "predict", context, lambda: self._predict(request))

    async def Classify(self, request, context):
        """Runs a signature on tf.Examples."""
        return await answer(self._service, "classify", context, lambda: self._classify(request))

    async def GetModelMetadata(self, request, context):
        """Returns the signatures."""
        spec, fields = request.model_spec, request.metadata_field
        return await answer(self._service, "metadata", context, lambda: self._service.metadata(spec, fields))

    async def _predict(self, request):
        servable = self._service.find(request.model_spec)
        signature = servable.find_signature(request.model_spec.signature_name)
        limit = self._service.limits.max_body

        def read():
            return {name: read_tensor(name, proto, limit) for name, proto in request.inputs.items()}

        inputs = await aside(request.ByteSize(), read)
        outputs = await self._service.predict(servable, signature, inputs, request.output_filter)

        def write():
            protos = {name: write_tensor(value) for name, value in outputs.items()}
            return predict_pb2.PredictResponse(model_spec=self._service.spec(servable, signature.name), outputs=protos)

        return await aside(sum(value.size for value in outputs.values()), write)

    async def _classify(self, request):
        servable = self._service.find(request.model_spec)
        signature = servable.find_signature(request.model_spec.signature_name)
        classes, scores = await self._service.classify(servable, signature, read_examples(request.input))
        response = classification_pb2.ClassificationResponse(model_spec=self._service.spec(servable, signature.name))
        for row in range(len(scores if classes is None else classes)):
            labels = itertools.repeat("") if classes is None else map(bytes.decode, classes[row])
            values = itertools.repeat(0.0) if scores is None else scores[row].tolist()
            classifications = response.result.classifications.add()
            for label, score in zip(labels, values, strict=False):
                classifications.classes.add(label=label, score=score)
        return response


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus. The base class refuses HandleReloadConfigRequest: UNIMPLEMENTED."""

    def __init__(self, service: Service):
        self._service = service

    async def GetModelStatus(self, request, context):
        """Returns the states of the versions."""
        return await answer(self._service, "status", context, lambda: self._service.status(request.model_spec))


async def answer(service: Service, api: str, context: grpc.aio.ServicerContext, work: Callable[[], Any]):
    """Returns what `work` or the coroutine it makes returns, or aborts the call with the status of its error."""
    if service.draining:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
    try:
        with service.account("gRPC", api, context.peer()):
            response = work()
            return await response if inspect.isawaitable(response) else response
    except ServingError as error:
        await context.abort(error.code, str(error))


def read_tensor(name: str, proto: Any, limit: int) -> np.ndarray:
    """Returns a TensorProto as an array.

    Args:
        name: of the input, for error messages.
        proto: the message.
        limit: of the array in bytes; a message of a few bytes can describe an array of any size.

    Raises:
        ServingError: INVALID_ARGUMENT if the message contradicts itself.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = tf.as_dtype(proto.dtype)
        if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.size or 1, 1) > limit:
            raise ValueError(f"the shape {shape}")
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid(
            f"Expected input {name!r} to be a tensor of at most {limit} bytes with as many values as its shape says. "
            f"Received: {error}"
        ) from None


def write_tensor(value: np.ndarray) -> Any:
    """Returns an array as a TensorProto."""
    dtype = tf.as_dtype(value.dtype) if value.dtype != object else tf.string
    if dtype not in FIELDS:
        return tf.make_tensor_proto(value)
    shape = tf.TensorShape(value.shape).as_proto()
    return TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=shape, **{FIELDS[dtype]: value.ravel().tolist()})
