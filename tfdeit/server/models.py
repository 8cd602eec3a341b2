"""SavedModels in one base directory: found, loaded and called the way TensorFlow Serving does."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import input_pb2, prediction_log_pb2

from tfdeit.server.errors import ServingError, invalid
from tfdeit.server.versions import find_version, find_versions

DEFAULT_SIGNATURE = "serving_default"
WARMUP_RECORDS = Path("assets.extra", "tf_serving_warmup_requests")


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Args:
        name: of the tensor in the graph.
        dtype: of its elements.
        shape: its dimensions, None for a free one; None if their number is free, too.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    @classmethod
    def from_info(cls, info) -> "TensorSpec":
        """Reads a TensorInfo of a SignatureDef."""
        shape = tf.TensorShape(info.tensor_shape)
        return cls(info.name, tf.as_dtype(info.dtype), None if shape.rank is None else tuple(shape))

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return tf.TensorShape(self.shape).is_compatible_with(shape)

    @property
    def batched(self) -> bool:
        """Whether the first dimension is free."""
        return self.shape is None or self.shape[:1] == (None,)

    def __str__(self):
        dims = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype.name} ({dims})"


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of the graph; its name, inputs and outputs are what clients call them."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def from_def(cls, name: str, definition) -> "Signature":
        """Reads a SignatureDef."""
        infos = (sorted(side.items()) for side in (definition.inputs, definition.outputs))
        return cls(name, *({key: TensorSpec.from_info(info) for key, info in side} for side in infos))

    @property
    def batched(self) -> bool:
        """Whether requests can be merged along the first dimension."""
        return all(spec.batched for spec in (*self.inputs.values(), *self.outputs.values()))

    def check(self, inputs: Mapping[str, np.ndarray]):
        """Raises INVALID_ARGUMENT unless the names, types and shapes of arrays are those of the inputs."""
        if inputs.keys() != self.inputs.keys():
            raise invalid(
                f"Expected the inputs {sorted(self.inputs)} of signature {self.name!r}. Received: {sorted(inputs)}"
            )
        for name, value in inputs.items():
            spec = self.inputs[name]
            if tf.as_dtype(value.dtype) != spec.dtype:
                raise invalid(f"Expected input {name!r} to be {spec}. Received: {value.dtype}")
            if not spec.allows(value.shape):
                raise invalid(f"Expected input {name!r} to be {spec}. Received: shape {value.shape}")


class Servable:
    """One version of a SavedModel, in a session with the tag `serve`, as TensorFlow Serving loads it.

    Args:
        directory: the directory with saved_model.pb.
        version: its number.

    Raises:
        OSError, tf.errors.OpError, RuntimeError, ValueError: if it cannot be loaded.
    """

    def __init__(self, directory: Path, version: int):
        self.version = version
        graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self.session, [tf.saved_model.SERVING], str(directory))
        self.signature_defs = dict(meta_graph.signature_def)
        self.signatures = {
            name: Signature.from_def(name, definition)
            for name, definition in sorted(self.signature_defs.items())
            # Only dense tensors have a name.
            if definition.inputs and all(i.name for i in (*definition.inputs.values(), *definition.outputs.values()))
        }
        self._warm_up(directory / WARMUP_RECORDS)

    def find_signature(self, name: str) -> Signature:
        """Returns a signature by name; an empty name means the default one."""
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise invalid(f"Expected one of the signatures {sorted(self.signatures)}. Received: {name!r}")
        return self.signatures[name]

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all outputs by name, with strings as object arrays of bytes. Thread-safe."""
        fetches = {name: spec.name for name, spec in signature.outputs.items()}
        outputs = self.session.run(fetches, {signature.inputs[name].name: value for name, value in inputs.items()})
        # A string of rank 0 arrives as bytes.
        return {
            name: np.array(value, object) if signature.outputs[name].dtype == tf.string else np.asarray(value)
            for name, value in outputs.items()
        }

    def _warm_up(self, path: Path):
        """Replays the recorded requests, so that the first client does not wait for memory and compilers."""
        if not path.exists():
            return
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("predict_log"):
                request = log.predict_log.request
                inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            elif log.HasField("classify_log"):
                request = log.classify_log.request
                inputs = {"inputs": np.array(read_examples(request.input), object)}
            else:
                continue
            self.run(self.find_signature(request.model_spec.signature_name), inputs)


def read_examples(message: input_pb2.Input) -> list[bytes]:
    """Returns the serialized tf.Examples of an Input, with the context merged into each."""
    if message.WhichOneof("kind") == "example_list_with_context":
        context = message.example_list_with_context.context.SerializeToString()
        return [context + example.SerializeToString() for example in message.example_list_with_context.examples]
    return [example.SerializeToString() for example in message.example_list.examples]


@dataclasses.dataclass(frozen=True)
class VersionState:
    """The state of a version, in TensorFlow Serving's terms, and the error if it could not be loaded."""

    state: str
    error: str = ""


class Model:
    """The versions of a model that are served: the latest one in its base directory, and those with a label.

    Args:
        name: what clients call it.
        directory: the base directory.
        labels: label -> version.
        report: called with each line for the log.
    """

    def __init__(self, name: str, directory: str | Path, labels: Mapping[str, int], report: Callable[[str], None]):
        self.name = name
        self.directory = Path(directory)
        self.labels = dict(labels)
        self.states: dict[int, VersionState] = {}
        self._servables: dict[int, Servable] = {}
        self._report = report

    def refresh(self):
        """Loads the versions to be served, and drops all others once those are loaded. Blocks.

        A version that cannot be loaded is reported, and tried again the next time, as it may not be complete yet.

        Raises:
            ValueError: if there are no versions in the directory.
        """
        wanted = {*find_versions(self.directory)[-1:], *self.labels.values()}
        for version in sorted(wanted - self._servables.keys()):
            self._load(version)
        if wanted <= self._servables.keys():
            for version in self._servables.keys() - wanted:
                self.states[version] = VersionState("END")
                self._report(f"version {version} unloaded")
            # A new dict, as other threads read the old one. A session closes after the last request that uses it.
            self._servables = {version: self._servables[version] for version in wanted}

    def _load(self, version: int):
        before = self.states.get(version)
        self.states[version] = VersionState("LOADING")
        try:
            servable = Servable(find_version(self.directory, version), version)
        except Exception as error:  # anything may be in the directory; other versions stay available
            self.states[version] = VersionState("END", str(error))
            if self.states[version] != before:
                self._report(f"version {version} cannot be loaded: {error}")
            return
        self._servables = {**self._servables, version: servable}
        self.states[version] = VersionState("AVAILABLE")
        self._report(f"version {version} loaded: {', '.join(servable.signatures)}")

    def find(self, version: int | None = None, label: str = "") -> Servable:
        """Returns a version by number or by label, or the latest.

        Raises:
            ServingError: NOT_FOUND; for an unknown label FAILED_PRECONDITION, as in TensorFlow Serving.
        """
        servables = self._servables
        if label:
            if label not in self.labels:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    f"Expected one of the version labels {sorted(self.labels)}. Received: {label!r}",
                )
            version = self.labels[label]
        if version is None:
            version = max(servables)
        if version not in servables:
            raise ServingError(
                StatusCode.NOT_FOUND, f"Expected one of the versions {sorted(servables)}. Received: {version}"
            )
        return servables[version]
