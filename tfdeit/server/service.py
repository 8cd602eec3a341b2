"""What both front ends share: admission, limits and execution of requests, with a log and metrics."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from tfdeit.server.batching import Arrays, Batcher
from tfdeit.server.errors import CODE_OF_NUMBER, ServingError, invalid
from tfdeit.server.metrics import Metrics
from tfdeit.server.models import Model, Servable, Signature

logger = logging.getLogger("tfdeit.server")

LARGE = 2**16  # bytes or elements


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a single request, and of all of them together.

    Args:
        max_batch_size: rows executed together.
        batch_timeout: seconds that a request waits for others.
        workers: batches executed at the same time.
        max_queue: requests accepted and not yet answered; more are refused.
        max_body: bytes of a request, decompressed.
        max_instances: rows of a request.
    """

    max_batch_size: int = 32
    batch_timeout: float = 0.002
    workers: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    max_queue: int = 256
    max_body: int = 32 * 2**20
    max_instances: int = 128


class Service:
    """Answers requests to one model. All methods are called in the same event loop.

    Args:
        model: the model, loaded.
        limits: of requests.
    """

    def __init__(self, model: Model, limits: Limits):
        self.model = model
        self.limits = limits
        self.in_flight = 0
        self.answered = 0
        self.draining = False
        self.metrics = Metrics(lambda: self.in_flight, lambda: self.batcher.depth)
        self.batcher = Batcher(
            limits.max_batch_size, limits.batch_timeout, limits.workers, self.metrics.batch_rows.observe
        )

    @contextlib.contextmanager
    def account(self, entrypoint: str, api: str, client: str) -> Iterator[None]:
        """Admits a request, counts and logs it, and turns any exception into a ServingError.

        Args:
            entrypoint: REST or gRPC.
            api: the method, such as predict.
            client: its address.

        Raises:
            ServingError: UNAVAILABLE, as in TensorFlow Serving, if too many requests are in flight; or what went wrong.
        """
        start, code, reason = time.perf_counter(), StatusCode.OK, ""
        self.in_flight += 1
        try:
            if self.in_flight > self.limits.max_queue:
                raise ServingError(
                    StatusCode.UNAVAILABLE,
                    f"Expected at most {self.limits.max_queue} requests at a time. Received more: try again later",
                )
            yield
        except Exception as error:
            failure = as_serving_error(error)
            code, reason = failure.code, f": {failure}"
            raise failure from None  # the traceback of an unexpected one is logged
        except BaseException:  # the client has disconnected
            code = StatusCode.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - start
            self.in_flight -= 1
            self.answered += code is not StatusCode.CANCELLED
            self.metrics.requests.labels(entrypoint, api, code.name).inc()
            self.metrics.seconds.labels(entrypoint, api).observe(seconds)
            logger.info("%s %s %s %s %.1f ms%s", client, entrypoint, api, code.name, 1000 * seconds, printable(reason))

    def find(self, spec: model_pb2.ModelSpec) -> Servable:
        """Returns the version that a request asks for.

        Raises:
            ServingError: NOT_FOUND, or FAILED_PRECONDITION for an unknown label.
        """
        if spec.name != self.model.name:
            raise ServingError(StatusCode.NOT_FOUND, f"Expected the model {self.model.name!r}. Received: {spec.name!r}")
        if not spec.HasField("version"):
            return self.model.find(label=spec.version_label)
        return self.model.find(version=spec.version.value)

    async def predict(
        self, servable: Servable, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> Arrays:
        """Runs a signature, and returns its outputs or some of them.

        Args:
            servable: the version.
            signature: one of its signatures.
            inputs: by name; strings as object arrays of bytes.
            outputs: names of the outputs to return; all if empty.

        Raises:
            ServingError: INVALID_ARGUMENT if inputs or outputs do not match the signature.
            tf.errors.OpError: if the execution fails.
        """
        signature.check(inputs)
        if len(set(outputs)) < len(outputs) or not signature.outputs.keys() >= set(outputs):
            raise invalid(f"Expected distinct names of {sorted(signature.outputs)}. Received: {list(outputs)}")
        sizes = {value.shape[:1] for value in inputs.values()}
        rows = max((size[0] for size in sizes if size), default=1)
        if rows > self.limits.max_instances:
            raise invalid(f"Expected at most {self.limits.max_instances} rows in a request. Received: {rows}")
        key = None
        if signature.batched and len(sizes) == 1 and () not in sizes:
            key = (servable.version, signature.name, *(value.shape[1:] for _, value in sorted(inputs.items())))
        answer = await self.batcher.submit(key, lambda arrays: servable.run(signature, arrays), inputs, rows)
        return {name: answer[name] for name in outputs or signature.outputs}

    async def classify(
        self, servable: Servable, signature: Signature, examples: Sequence[bytes]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Classifies serialized tf.Examples; returns (B, K) labels, bytes, and (B, K) float32 scores. One can be None.

        Raises:
            ServingError: FAILED_PRECONDITION if the inputs and outputs of the signature do not have the names that
                classification needs; INVALID_ARGUMENT if the outputs do not have the right shape.
        """
        if not examples:
            raise invalid("Expected at least one example. Received: none")
        if list(signature.inputs) != ["inputs"] or not set() < signature.outputs.keys() <= {"classes", "scores"}:
            raise ServingError(
                StatusCode.FAILED_PRECONDITION,
                f"Expected a signature with the input 'inputs' and the outputs 'classes', 'scores' or both. Received: "
                f"{signature.name!r} with {list(signature.inputs)} and {list(signature.outputs)}. Choose another with "
                "signature_name",
            )
        batch = np.empty(len(examples), object)
        batch[:] = examples
        answer = await self.predict(servable, signature, {"inputs": batch})
        for value in answer.values():
            if value.ndim != 2 or len(value) != len(examples):
                raise invalid(f"Expected classes and scores of shape ({len(examples)}, K). Received: {value.shape}")
        return answer.get("classes"), answer.get("scores")

    def metadata(
        self, spec: model_pb2.ModelSpec, fields: Sequence[str]
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version, which is the only metadata there is."""
        if list(fields) != ["signature_def"]:
            raise invalid(f"Expected metadata_field to be signature_def. Received: {list(fields)}")
        servable = self.find(spec)
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self.spec(servable))
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of one version, or of all."""
        states = dict(self.model.states)
        if spec.name != self.model.name or spec.version_label:
            number = self.find(spec).version
            states = {number: states[number]}
        elif spec.HasField("version"):
            number = spec.version.value
            if number not in states:
                self.find(spec)  # raises; a version that is no longer served still has a state
            states = {number: states[number]}
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in sorted(states.items(), reverse=True):
            row = response.model_version_status.add(
                version=version, state=get_model_status_pb2.ModelVersionStatus.State.Value(state.state)
            )
            row.status.error_code = tf.errors.UNKNOWN if state.error else tf.errors.OK
            row.status.error_message = state.error
        return response

    def spec(self, servable: Servable, signature: str = "") -> model_pb2.ModelSpec:
        """Returns the model, version and signature that answered."""
        spec = model_pb2.ModelSpec(name=self.model.name, signature_name=signature)
        spec.version.value = servable.version
        return spec


def as_serving_error(error: Exception) -> ServingError:
    """Returns the error that a client is told about."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        lines = [line for line in error.message.splitlines() if not line.startswith(("Graph execution error", "\t [["))]
        return ServingError(CODE_OF_NUMBER[error.error_code], " ".join(filter(None, lines))[:1000])
    logger.exception("unexpected error")
    return ServingError(StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


async def aside(size: int, function: Callable):
    """Calls a function, in a thread if it handles much data, so that other requests do not wait; returns its result.

    Args:
        size: bytes or elements that it handles.
        function: without arguments.
    """
    return await asyncio.to_thread(function) if size > LARGE else function()


def printable(text: str) -> str:
    """Replaces line breaks and control characters, so that no client can write lines of its own into the log."""
    return "".join(character if character.isprintable() else "?" for character in text)
