"""The files beside a SavedModel: warm-up requests, TF Serving's configuration, and how to serve and query it."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdeit.exports.readme import describe, fill

_WARMUP_BATCHES = (1, 8)

_MODELS_CONFIG = """\
model_config_list {
  config {
    name: "@NAME@"
    base_path: "/models/@NAME@"
    model_platform: "tensorflow"
  }
}
"""

_BATCHING_PARAMETERS = """\
# Requests that arrive within 2 ms of each other are executed as one batch.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
"""

_README = """\
# @NAME@

@MODEL@: @PARAMETERS@ M parameters stored as @DTYPE@ (@SIZE@ MB), images of @HEIGHT@x@WIDTH@ pixels, @CLASSES@ classes.
Written by tfdeit @VERSION@ with TensorFlow @TENSORFLOW@; use this version of TF Serving or a later one.

## Serve

In this directory:

```sh
docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD":/models/@NAME@:ro tensorflow/serving \\
  --model_config_file=/models/@NAME@/models.config \\
  --enable_batching --batching_parameters_file=/models/@NAME@/batching_parameters.txt
```

## Query over REST

```python
import base64
import json
import sys
import urllib.request

with open(sys.argv[1], "rb") as file:
    image = base64.b64encode(file.read()).decode()
request = {"instances": [{"b64": image}]}
url = "http://localhost:8501/v1/models/@NAME@:predict"
with urllib.request.urlopen(url, json.dumps(request).encode()) as response:
    for answer in json.load(response)["predictions"]:
        print(answer["status"], answer["classes"], answer["probabilities"])
```

## Query over gRPC

```python
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

with open(sys.argv[1], "rb") as file:
    images = [file.read()]
request = predict_pb2.PredictRequest()
request.model_spec.name = "@NAME@"
request.model_spec.signature_name = "serving_default"
request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images))
with grpc.insecure_channel("localhost:8500") as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    outputs = stub.Predict(request, timeout=30).outputs
status, classes, probabilities = (
    tf.make_ndarray(outputs[name]) for name in ("status", "classes", "probabilities")
)
print(status[0].decode(), [name.decode() for name in classes[0]], probabilities[0])
```

## Signatures

B is the number of images in a request. Each image has its own status: `ok`, or the reason why it could not be used;
the other images are classified all the same.

| signature | inputs | outputs |
|---|---|---|
@SIGNATURES@
"""


def write_warmup(version: Path, name: str, image_hw: tuple[int, int]):
    """Writes the requests to each signature that TF Serving replays before a version takes traffic (`PredictionLog`).

    Args:
        version: directory of the SavedModel.
        name: of the model.
        image_hw: height and width of its images in pixels.
    """
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), "uint8")
    jpeg = tf.io.encode_jpeg(noise).numpy()
    example = tf.train.Example()
    example.features.feature["image_bytes"].bytes_list.value.append(jpeg)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in _WARMUP_BATCHES:
            files, shape = tf.make_tensor_proto([jpeg] * batch), (batch, *image_hw, 3)
            inputs = {
                "serving_default": ("image_bytes", files),
                "predict_pixels": ("pixel_values", tf.make_tensor_proto(0.0, tf.float32, shape)),
                "predict_uint8": ("pixels", tf.make_tensor_proto(0, tf.uint8, shape)),
                "features": ("image_bytes", files),
                "attention": ("image_bytes", files),
            }
            for signature, (key, value) in inputs.items():
                entry = _field(1, key.encode()) + _field(2, value.SerializeToString())
                writer.write(_field(6, _field(1, _model_spec(name, signature) + _field(2, entry))))
            examples = _field(1, example.SerializeToString()) * batch
            writer.write(_field(2, _field(1, _model_spec(name, "classify") + _field(2, _field(1, examples)))))


def _model_spec(name, signature):
    return _field(1, _field(1, name.encode()) + _field(3, signature.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Serializes one length-delimited field of a protocol buffer.

    Enough for TF Serving's prediction_log.proto, and saves the dependency on tensorflow-serving-api.
    """
    length, varint = len(content), b""
    while length > 127:
        varint += bytes([length % 128 + 128])
        length //= 128
    return bytes([number * 8 + 2]) + varint + bytes([length]) + content


def write_side_files(version: Path, model, signatures: dict):
    """Writes models.config, batching_parameters.txt and README.md beside the versions.

    Args:
        version: directory of the SavedModel.
        model: what was exported.
        signatures: name -> function.
    """
    directory = version.parent
    values = describe(model, directory.name) | {
        "DTYPE": model.dtype_policy.variable_dtype,
        "SIZE": f"{sum(path.stat().st_size for path in version.rglob('*') if path.is_file()) / 1e6:.1f}",
        "TENSORFLOW": tf.__version__,
        "SIGNATURES": "\n".join(_table_row(name, function) for name, function in signatures.items()),
    }
    for name, template in SIDE_FILES.items():
        (directory / name).write_text(fill(template, values), encoding="utf-8")


def _table_row(name, function):
    inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    return f"| `{name}` | {_tensors(inputs)} | {_tensors(function.structured_outputs)} |"


def _tensors(specs):
    shapes = {name: ", ".join(["B", *(str(n or "any") for n in spec.shape[1:])]) for name, spec in specs.items()}
    return ", ".join(f"`{name}` ({shapes[name]}) {spec.dtype.name}" for name, spec in specs.items())


SIDE_FILES = {
    "models.config": _MODELS_CONFIG,
    "batching_parameters.txt": _BATCHING_PARAMETERS,
    "README.md": _README,
}
