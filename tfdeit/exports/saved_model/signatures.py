"""The signatures of an exported model: one TensorFlow function each, all sharing the same variables."""

import keras
import tensorflow as tf

from tfdeit.exports.saved_model.preprocessing import OK, GraphProcessor
from tfdeit.network.attention_maps import attention_rollout

_IMAGE_BYTES = tf.TensorSpec((None,), tf.string, "image_bytes")


class ServedClassifier(tf.Module):
    """A classifier and its image processor, from bytes to labels.

    TensorFlow's variables are tracked, not Keras': the loaders of TensorFlow 1, which TF Serving uses, do not find
    Keras', and `model.export` stores the weights twice.

    Args:
        model: a classifier.
        processor: the image processor inside the graph.
        labels: the name of each class.
        top_k: how many classes `serving_default` and `classify` return.
    """

    def __init__(self, model: keras.Model, processor: GraphProcessor, labels: list[str], top_k: int):
        super().__init__("classifier")
        self._model, self._labels, self._top_k = _untracked(model), _untracked(labels), top_k
        self.weights = [variable.value for variable in model.variables]
        config = model.config
        self._pixels = tf.TensorSpec((None, *config.image_hw, config.num_channels), tf.float32, "pixel_values")
        # Functions, so that all signatures share one copy of each in the graph.
        self._read = _untracked(tf.function(processor.read, [_IMAGE_BYTES], autograph=False))
        self._resize = processor.resize
        self._logits = _untracked(tf.function(self._compute_logits, [self._pixels], autograph=False))

    def signatures(self) -> dict:
        """Returns the function of each signature, by name."""
        specs = {
            "serving_default": (self.serve, _IMAGE_BYTES),
            "classify": (self.classify, tf.TensorSpec((None,), tf.string, "inputs")),
            "predict_pixels": (self.predict_pixels, self._pixels),
            "predict_uint8": (self.predict_uint8, tf.TensorSpec((None, None, None, 3), tf.uint8, "pixels")),
            "features": (self.features, _IMAGE_BYTES),
            "attention": (self.attention, _IMAGE_BYTES),
        }
        return {
            name: tf.function(function, [spec], autograph=False).get_concrete_function()
            for name, (function, spec) in specs.items()
        }

    def serve(self, image_bytes):
        """Contents of image files to the most probable classes, with a status for each image."""
        pixel_values, status, _ = self._read()(image_bytes)
        probabilities, indices = tf.math.top_k(tf.nn.softmax(self._logits()(pixel_values)), self._top_k)
        good = (status == OK)[:, None]
        indices = tf.where(good, indices, -1)
        # The extra label is for images that could not be read.
        names = tf.constant([*self._labels(), ""])
        classes = tf.gather(names, tf.where(good, indices, len(self._labels())))
        return {
            "classes": classes,
            "probabilities": tf.where(good, probabilities, 0.0),
            "indices": indices,
            "status": status,
        }

    def classify(self, inputs):
        """Serialized tf.Example to classes and scores, for TF Serving's Classify API."""
        feature = tf.io.FixedLenFeature((), tf.string, default_value="")
        image_bytes = tf.io.parse_example(inputs, {"image_bytes": feature})["image_bytes"]
        answer = self.serve(image_bytes)
        return {"classes": answer["classes"], "scores": answer["probabilities"]}

    def predict_pixels(self, pixel_values):
        """Pixel values of the image processor to logits."""
        return {"logits": self._logits()(pixel_values)}

    def predict_uint8(self, pixels):
        """Decoded images of one size, whatever it is, to logits."""
        return {"logits": self._logits()(self._resize(pixels))}

    def features(self, image_bytes):
        """Contents of image files to the class token, and all tokens, after the final norm."""
        pixel_values, status, _ = self._read()(image_bytes)
        tokens = tf.cast(self._model().backbone(pixel_values).last_hidden_state, tf.float32)
        tokens = tf.where((status == OK)[:, None, None], tokens, 0.0)
        return {"pooled": tokens[:, 0], "tokens": tokens, "status": status}

    def attention(self, image_bytes):
        """Contents of image files to attention rollouts (B, rows, columns) of maximum 1, and the part each covers."""
        pixel_values, status, regions = self._read()(image_bytes)
        model = self._model()
        attentions = model(pixel_values, output_attentions=True).attentions
        rollout = attention_rollout(attentions, model.config.num_prefix_tokens)
        rollout = tf.where((status == OK)[:, None], rollout / tf.reduce_max(rollout, axis=1, keepdims=True), 0.0)
        return {"rollout": tf.reshape(rollout, (-1, *model.config.grid)), "region": regions, "status": status}

    def _compute_logits(self, pixel_values):
        return tf.cast(self._model()(pixel_values).logits, tf.float32)


def _untracked(value):
    """Hides an object from tf.Module, which saves everything it finds in its attributes."""
    return lambda: value
