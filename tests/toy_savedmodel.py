"""A SavedModel without a network, whose signatures exercise the protocol. The labels depend on the bytes only."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import sys

import tensorflow as tf

LABELS = ["short", "long", "empty"]
ANY_TYPE = {name: getattr(tf, name) for name in ("bool", "int8", "uint8", "int64", "uint32", "float16", "float64")}


class Toy(tf.Module):
    """Classifies images by the number of their bytes: below 8 short, else long; none is an error."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.offset = tf.Variable(offset)
        self.labels = tf.constant(LABELS)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve(self, image_bytes):
        size = tf.strings.length(image_bytes)
        first = tf.cast(size >= 8, tf.int32)
        ok = size > 0
        indices = tf.where(ok[:, None], tf.stack([first, 1 - first], 1), -1)
        scores = tf.constant([[0.75, 0.25]]) + tf.zeros([tf.shape(size)[0], 1]) + self.offset
        return {
            "classes": tf.where(ok[:, None], tf.gather(self.labels, tf.maximum(indices, 0)), ""),
            "probabilities": tf.where(ok[:, None], scores, 0.0),
            "indices": indices,
            "status": tf.where(ok, "ok", "the image is empty"),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        features = {"image_bytes": tf.io.FixedLenFeature([], tf.string)}
        outputs = self.serve(tf.io.parse_example(inputs, features)["image_bytes"])
        return {"classes": outputs["classes"], "scores": outputs["probabilities"]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def silent(self, inputs):
        return {}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def attention(self, image_bytes):
        size = tf.cast(tf.strings.length(image_bytes), tf.float32)
        ramp = tf.reshape(tf.range(1.0, 5.0) / 4, [1, 2, 2])
        region = tf.constant([[0.0, 0.25, 1.0, 0.75]]) + 0 * size[:, None]
        return {
            "rollout": ramp + 0 * size[:, None, None],
            "region": region,
            "status": self.serve(image_bytes)["status"],
        }

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 2, 3], tf.float32, "pixel_values")])
    def predict_pixels(self, pixel_values):
        tf.debugging.assert_non_negative(pixel_values, "negative pixels")
        return {"logits": tf.reduce_sum(pixel_values, [1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "pixels")])
    def predict_uint8(self, pixels):
        return {"logits": tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "a"), tf.TensorSpec([None], tf.float32, "b")])
    def divide(self, a, b):
        return {"quotient": a / b, "rows": tf.fill(tf.shape(a), tf.shape(a)[0])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def echo(self, text):
        return {"text": text, "text_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "x")])
    def scalar(self, x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], dtype, name) for name, dtype in ANY_TYPE.items()])
    def types(self, *values):
        return {name: tf.identity(value) for name, value in zip(ANY_TYPE, values, strict=True)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "steps")])
    def slow(self, steps):
        """Works for a time that grows with the largest number."""
        matrix = tf.random.stateless_normal([64, 64], [0, 0]) / 16
        last = tf.foldl(lambda total, _: tf.linalg.matmul(total, matrix), tf.range(tf.reduce_max(steps)), matrix)
        return {"steps": steps + tf.cast(0 * last[0, 0], tf.int32)}


def save(directory, offset=0.0):
    toy = Toy(offset)
    functions = [
        "classify",
        "silent",
        "attention",
        "predict_pixels",
        "predict_uint8",
        "divide",
        "echo",
        "scalar",
        "types",
        "slow",
    ]
    signatures = {"serving_default": toy.serve} | {name: getattr(toy, name) for name in functions}
    tf.saved_model.save(toy, str(directory), signatures)


if __name__ == "__main__":
    save(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
