"""Tensors and tf.Examples as JSON: the bodies of TensorFlow Serving's REST API.

Sources: tensorflow.org/tfx/serving/api_rest, and tensorflow_serving/util/json_tensor.cc for what it leaves open.
"""

import base64
import itertools
import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from grpc import StatusCode

from tfdeit.server.errors import ServingError, invalid
from tfdeit.server.models import Signature, TensorSpec

INTEGERS = {tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64}
# Type -> the integer up to which it holds all integers exactly.
FLOATS = {tf.float16: 2**11, tf.bfloat16: 2**8, tf.float32: 2**24, tf.float64: 2**53}


def parse(body: bytes) -> tuple[dict, str]:
    """Returns the JSON object in the body of a request, and the name of its signature, empty for the default one.

    NaN, Infinity and -Infinity count as numbers.

    Raises:
        ServingError: INVALID_ARGUMENT if it is no such object.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"Expected JSON. Received {len(body)} bytes that are not: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"Expected a JSON object. Received: {preview(document)}")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"Expected signature_name to be a string. Received: {preview(name)}")
    return document, name


def read_predict(document: dict, signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """Returns the inputs of a predict request, and whether it has them by row ("instances") or by column ("inputs")."""
    if ("instances" in document) == ("inputs" in document):
        raise invalid(f"Expected either 'instances' or 'inputs'. Received: {preview(sorted(document))}")
    by_row = "instances" in document
    columns = read_rows(document["instances"], signature) if by_row else document["inputs"]
    if not is_object(columns):
        columns = {only_input(signature): columns}
    missing = signature.inputs.keys() - columns.keys()
    if missing:
        raise invalid(f"Expected the inputs {list(signature.inputs)}. Received: {preview(sorted(columns))}")
    return {name: to_array(name, columns[name], spec) for name, spec in signature.inputs.items()}, by_row


def read_rows(rows, signature: Signature) -> dict[str, list]:
    """Returns the column of each input."""
    if not isinstance(rows, list) or not rows:
        raise invalid(f"Expected 'instances' to be a list of at least one row. Received: {preview(rows)}")
    if not is_object(rows[0]):
        rows = [None if is_object(row) else {only_input(signature): row} for row in rows]
    for number, row in enumerate(rows):
        if not is_object(row) or row.keys() != signature.inputs.keys():
            raise invalid(
                f"Expected each of 'instances' to be an object with the keys {list(signature.inputs)}, or, with a "
                f"single input, the value itself. Received at index {number}: {preview(row)}"
            )
    return {name: [row[name] for row in rows] for name in signature.inputs}


def only_input(signature: Signature) -> str:
    """Returns the name of the only input."""
    if len(signature.inputs) > 1:
        raise invalid(f"Expected an object with the inputs {list(signature.inputs)}. Received: a value without a name")
    return next(iter(signature.inputs))


def to_array(name: str, value, spec: TensorSpec) -> np.ndarray:
    """Converts nested lists to an array, without loss.

    Args:
        name: of the input, for error messages.
        value: a value or nested lists of values.
        spec: of the input.

    Returns:
        An array with the shape of the nesting; of strings, an object array of bytes.

    Raises:
        ServingError: INVALID_ARGUMENT if the lists are ragged, or the input's type cannot hold a value.
    """
    shape: list = []
    leaves = [value]
    while leaves and isinstance(leaves[0], list):
        sizes = {len(leaf) if isinstance(leaf, list) else None for leaf in leaves}
        if len(sizes) > 1:
            raise invalid(f"Expected input {name!r} to have lists of equal length. Received: lengths {preview(sizes)}")
        shape += sizes
        leaves = list(itertools.chain.from_iterable(leaves))
    types = set(map(type, leaves))
    try:
        if spec.dtype == tf.string:
            flat = np.empty(len(leaves), object)
            flat[:] = [to_bytes(leaf) for leaf in leaves]
        elif spec.dtype == tf.bool and types <= {bool}:
            flat = np.array(leaves, bool)
        elif spec.dtype in INTEGERS and types <= {int}:
            flat = np.array(leaves, spec.dtype.as_numpy_dtype)
        elif spec.dtype in FLOATS and types <= {int, float}:
            flat = to_floats(leaves, spec.dtype, int in types)
        else:
            raise ValueError(", ".join(sorted(JSON_TYPES[kind] for kind in types)))
        return flat.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise invalid(f"Expected input {name!r} to be {spec}. Received: {error}") from None


JSON_TYPES = {
    bool: "true or false",
    int: "integers",
    float: "decimals",
    str: "strings",
    list: "lists among values",
    dict: "objects",
    type(None): "null",
}


def to_floats(leaves: list, dtype: tf.DType, integers: bool) -> np.ndarray:
    """Converts numbers to floats; a number that does not fit is an error, not infinity."""
    if integers:
        for leaf in leaves:
            if type(leaf) is int and abs(leaf) > FLOATS[dtype]:
                raise ValueError(f"{preview(leaf)}, which {dtype.name} cannot hold")
    exact = np.array(leaves, "float64")
    if np.any(np.abs(exact[np.isfinite(exact)]) > dtype.max):
        raise ValueError(f"a number beyond {dtype.name}")
    return exact.astype(dtype.as_numpy_dtype)


def to_bytes(value) -> bytes:
    """Returns the bytes that a string, or an object {"b64": ...}, stands for."""
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise ValueError(f'{preview(value)}, which is neither a string nor {{"b64": a string}}')
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"base64 that cannot be decoded: {error}") from None


def is_base64(value) -> bool:
    """Whether a value is an object {"b64": string}."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def is_object(value) -> bool:
    """Whether a value is an object that does not stand for bytes."""
    return isinstance(value, dict) and not is_base64(value)


def read_examples(document: dict) -> list[bytes]:
    """Returns the serialized tf.Examples of a classify request, with the context merged into each."""
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid(f"Expected 'examples' to be a list of at least one example. Received: {preview(examples)}")
    context = to_example(document.get("context", {}))
    return [context + to_example(example) for example in examples]  # concatenated messages are merged


def to_example(features) -> bytes:
    """Serializes an object, feature -> value or list of values, as a tf.Example."""
    if not isinstance(features, dict):
        raise invalid(f"Expected an example to be an object. Received: {preview(features)}")
    example = tf.train.Example()
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        kinds = {int if kind is bool else bytes if kind in (str, dict) else kind for kind in map(type, values)}
        try:
            feature = example.features.feature[name]
            if kinds == {bytes}:
                feature.bytes_list.value.extend(map(to_bytes, values))
            elif kinds == {float}:
                feature.float_list.value.extend(to_floats(values, tf.float32, False).tolist())
            elif kinds == {int}:
                feature.int64_list.value.extend(map(int, values))
            elif kinds:
                raise ValueError(preview(values))
        except ValueError as error:
            raise invalid(f"Expected feature {name!r} to be strings, integers or decimals. Received: {error}") from None
    return example.SerializeToString()


def write_predict(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Writes the answer to a predict request; the name of a single output is omitted."""
    if not by_row:
        values = {name: to_json(name, value) for name, value in outputs.items()}
        return dump({"outputs": values if len(values) != 1 else next(iter(values.values()))})
    sizes = {value.shape[:1] for value in outputs.values()}
    if len(sizes) > 1 or () in sizes:
        shapes = {name: value.shape for name, value in outputs.items()}
        raise invalid(
            f"Expected outputs with one row for each instance. Received: shapes {shapes}. Send 'inputs' instead of "
            "'instances'"
        )
    columns = [to_json(name, value) for name, value in outputs.items()]
    if len(columns) == 1:
        return dump({"predictions": columns[0]})
    return dump({"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]})


def write_classify(classes: np.ndarray | None, scores: np.ndarray | None) -> bytes:
    """Writes the answer to a classify request: (B, K) labels and (B, K) scores, either of which can be missing."""
    shape = next(array.shape for array in (classes, scores) if array is not None)
    labels = np.full(shape, b"", object) if classes is None else classes
    scores = np.zeros(shape, "float32") if scores is None else scores
    rows = zip(to_json("classes", labels), to_json("scores", scores), strict=True)
    return dump({"results": [[list(pair) for pair in zip(*row, strict=True)] for row in rows]})


def to_json(name: str, value: np.ndarray):
    """Returns an output as nested lists, with strings as base64 objects if its name ends in _bytes.

    Raises:
        ServingError: INTERNAL if a string is not UTF-8.
    """
    if value.dtype == object:
        encode = to_base64 if name.endswith("_bytes") else bytes.decode
        try:
            flat = np.frompyfunc(encode, 1, 1)(value)
        except UnicodeDecodeError as error:
            raise ServingError(
                StatusCode.INTERNAL,
                f"Expected output {name!r} to be UTF-8. Received: {error}. Use gRPC, or a name that ends in _bytes",
            ) from None
        return flat.tolist() if isinstance(flat, np.ndarray) else flat
    if value.dtype.kind == "f" or value.dtype == tf.bfloat16.as_numpy_dtype:
        # The fewest digits that identify the float32: 0.1, not 0.10000000149011612.
        exact = value if value.dtype.itemsize == 8 else value.astype("float32").astype("U").astype("float64")
        return exact.tolist()
    return value.tolist()


def to_base64(value: bytes) -> dict[str, str]:
    """Returns the object that stands for bytes."""
    return {"b64": base64.b64encode(value).decode()}


def dump(document) -> bytes:
    """Serializes JSON, with NaN and Infinity as numbers."""
    return json.dumps(document).encode()


def preview(value, length: int = 100) -> str:
    """Returns the start of a value as text, for error messages."""
    if isinstance(value, (list, dict)) and len(value) > 8:
        value = dict(itertools.islice(value.items(), 8)) if isinstance(value, dict) else value[:8]
    text = str(sorted(value, key=str)) if isinstance(value, (set, frozenset)) else repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
