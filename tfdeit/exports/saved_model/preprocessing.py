"""The image processor of a model inside a TensorFlow graph, which gives the same pixels as on the host."""

import math
from typing import NamedTuple

import keras
import tensorflow as tf
from PIL import Image

from tfdeit.exports.saved_model.decoding import decode
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.processor_config import FILTERS
from tfdeit.resample import filter_span, filter_weights, fixed_point, vertical_first

_BLOCK = 16  # rows of the result that one matrix product computes; with more, more of the weights are zeros
_MAX_SHRINK = 1000  # times; at this limit the weights of an axis take some 40 MB
OK = "ok"
DAMAGED = "damaged or truncated"


class GraphProcessor:
    """Decodes, resizes, crops, rescales and normalises batches inside a graph.

    Args:
        processor: an image processor of the library.
        size: (height, width) of the model's images in pixels.

    Raises:
        ValueError: if the processor makes images of another size, or rotates them by their EXIF tag.
    """

    def __init__(self, processor: BaseImageProcessor, size: tuple[int, int]):
        crop, resize = processor.do_center_crop and processor.crop_size, processor.do_resize and processor.size
        fixed = crop or resize or {}
        if (fixed.get("height"), fixed.get("width")) != size:
            raise ValueError(
                f"Expected an image processor that makes images of {size[0]}x{size[1]}, as the model takes. Received: "
                f"{processor!r}. Set crop_size with do_center_crop=True, or size as (height, width)."
            )
        if processor.exif_orientation:
            raise ValueError(
                "Expected exif_orientation=False: the graph reads no EXIF tags. Received: exif_orientation=True. "
                "Rotate images upright before sending them, and export processor.replace(exif_orientation=False)."
            )
        self.processor = processor
        self.size = size
        self.name = FILTERS[processor.resample] if processor.do_resize else "nearest"
        self.order = getattr(processor, "pass_order", None)
        self.max_pixels = Image.MAX_IMAGE_PIXELS or 2**31 - 1
        self.levels = processor.levels().astype("float32")  # (256, 3)

    @tf.autograph.experimental.do_not_convert
    def read(self, image_bytes):
        """Reads a batch of images; one that cannot be read does not affect the others.

        Args:
            image_bytes: (B,) string, contents of image files.

        Returns:
            Pixel values (B, H, W, 3) float32; the status of each image, (B,) string: "ok" or a reason; and the part of
            it that the model sees, (B, 4) float32: top, left, bottom and right as fractions of its height and width.
        """
        count = tf.size(image_bytes)
        images = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        images = images.map(self._read_one, num_parallel_calls=tf.data.AUTOTUNE)
        # `ignore_errors` drops an image that fails; an extra element at the end then takes its place.
        missing = tf.data.Dataset.from_tensors((count, tf.zeros((*self.size, 3), tf.uint8), DAMAGED, tf.zeros(4)))
        images = images.ignore_errors().concatenate(missing)
        numbers, *parts = images.batch(tf.cast(count, tf.int64) + 1).get_single_element()
        last = tf.size(numbers) - 1
        places = tf.tensor_scatter_nd_update(tf.fill([count], last), numbers[:-1, None], tf.range(last))
        pixels, status, regions = (tf.gather(part, places) for part in parts)
        return self._normalize(pixels), status, regions

    def resize(self, pixels):
        """Resizes, crops and normalises decoded images: (B, H, W, 3) uint8 to pixel values float32."""
        height, width = (tf.cast(side, tf.float64) for side in tf.unstack(tf.shape(pixels)[1:3]))
        usable = tf.debugging.Assert(self._can_resize(height, width), ["the images are empty, or too long and thin"])
        with tf.control_dependencies([usable]):
            return self._normalize(tf.map_fn(self._resize_and_crop, pixels))

    @tf.autograph.experimental.do_not_convert
    def _read_one(self, number, data):
        image, reason = decode(data, self.max_pixels, bool(self.processor.do_convert_rgb))
        height, width = (tf.cast(side, tf.float64) for side in tf.unstack(tf.shape(image)[:2]))
        fits = (reason != "") | self._can_resize(height, width)
        reason = tf.where(fits, reason, "too long and thin to be resized")
        *out_size, top, left, rows, columns, _ = self._place(height, width)
        region = tf.stack([top, left, top + rows, left + columns]) / tf.stack(out_size * 2)
        empty = tf.zeros((*self.size, 3), tf.uint8)
        pixels = tf.cond(reason == "", lambda: self._resize_and_crop(image), lambda: empty)
        region = tf.where(reason == "", tf.cast(region, tf.float32), 0.0)
        return number, pixels, tf.where(reason == "", OK, reason), region

    def _can_resize(self, height, width):
        """Whether the memory for the result, the image between the two passes, and the weights stays bounded."""
        *out_size, _, _, _, _, largest = self._place(height, width)
        return (largest <= self.max_pixels) & (tf.maximum(height / out_size[0], width / out_size[1]) <= _MAX_SHRINK)

    def _place(self, height, width):
        return [tf.cast(value, tf.float64) for value in self.processor.place(height, width, keras.ops)]

    def _resize_and_crop(self, image):
        """Resizes and crops (H, W, 3) uint8 to the model's size."""
        in_size = [tf.cast(side, tf.float64) for side in tf.unstack(tf.shape(image)[:2])]
        *out_size, top, left, _, _, _ = self._place(*in_size)
        rows = self._bands(in_size[0], out_size[0], top, self.size[0])
        columns = self._bands(in_size[1], out_size[1], left, self.size[1])
        image = image[rows.start : rows.stop, columns.start : columns.stop]

        def resample_columns(image):
            return tf.transpose(_resample_rows(tf.transpose(image, (1, 0, 2)), columns), (1, 0, 2))

        image = tf.cond(
            tf.convert_to_tensor(vertical_first(in_size, out_size, self.order)),
            lambda: resample_columns(_resample_rows(image, rows)),
            lambda: _resample_rows(resample_columns(image), rows),
        )
        return tf.ensure_shape(image[: self.size[0], : self.size[1]], (*self.size, 3))

    def _bands(self, in_size, out_size, first, count):
        """How to compute `count` rows of the result from `first` on; rows outside the result are 0."""
        wanted = first + tf.range(math.ceil(count / _BLOCK) * _BLOCK, dtype=tf.float64)
        rows = tf.clip_by_value(wanted, tf.zeros_like(out_size), tf.minimum(first + count, out_size) - 1)
        start, stop = filter_span(in_size, out_size, self.name, rows, keras.ops)
        width = tf.reduce_max(stop[_BLOCK - 1 :: _BLOCK] - start[::_BLOCK])
        begin = tf.minimum(start[::_BLOCK], stop[-1] - width)
        columns = tf.repeat(begin, _BLOCK)[:, None] + tf.range(width)
        weights = fixed_point(filter_weights(in_size, out_size, self.name, rows, columns, keras.ops), keras.ops)
        weights = tf.where((rows == wanted)[:, None], weights * 2**-22, 0.0)
        numbers = (tf.cast(number, tf.int32) for number in (start[0], stop[-1], begin - start[0]))
        return _Bands(*numbers, tf.reshape(weights, (-1, _BLOCK, tf.shape(weights)[1])))

    def _normalize(self, pixels):
        """Looks up the pixel value of each level: (B, H, W, 3) uint8 to float32."""
        return tf.gather(tf.reshape(self.levels, [-1]), tf.cast(pixels, tf.int32) * 3 + tf.range(3))


class _Bands(NamedTuple):
    """Resampling of one axis, as one matrix product per block of rows of the result."""

    start: tf.Tensor  # () int32, the first pixel read
    stop: tf.Tensor  # () int32, the one after the last
    begin: tf.Tensor  # (blocks,) int32, the first pixel read for each block, relative to `start`
    weights: tf.Tensor  # (blocks, _BLOCK, K) float64, multiples of 2**-22


def _resample_rows(image, bands):
    """Resamples the first axis of (N, M, 3) uint8. Float64 holds the sums exactly, as Pillow's integers do."""
    flat = tf.reshape(image, (tf.shape(image)[0], -1))

    def block(begin, weights):
        pixels = flat[begin : begin + tf.shape(weights)[1]]
        total = tf.matmul(weights, tf.cast(pixels, tf.float64))
        return tf.cast(tf.clip_by_value(total + 0.5, 0.0, 255.0), tf.uint8)

    blocks = tf.map_fn(lambda band: block(*band), (bands.begin, bands.weights), fn_output_signature=tf.uint8)
    return tf.reshape(blocks, (-1, tf.shape(image)[1], 3))
