"""The base of all image processors, which works on the host with Pillow; `processors` has the classes to use."""

import keras
import numpy as np
from keras import ops
from PIL import Image

from tfdeit.preprocessing.images import ENCODED, ImageError, decode_pillow, flatten, read_block
from tfdeit.preprocessing.processor_config import FILTERS, ProcessorConfig
from tfdeit.presentation.terminal import counted
from tfdeit.resample import plan_resize, resample, vertical_first

_TENSORS = {"tensorflow": "tf", "torch": "pt", "jax": "jax"}  # backend -> transformers' name of its tensors


def _as_uint8(image):
    """Return pixels that Pillow can resize, and whether they were fractions of 1, by transformers' rules."""
    if image.dtype == "uint8":
        return image, False
    low, high = image.min(), image.max()
    if low >= 0 and high <= 255 and np.allclose(image, image.astype(int)):
        return image.astype("uint8"), False
    if low >= 0 and high <= 1:
        return _rescale(image, 255).astype("uint8"), True
    raise ImageError(f"Expected whole numbers in [0, 255] or fractions in [0, 1]. Received: {low} to {high}.")


def _rescale(image, factor):
    return (image.astype("float64") * factor).astype("float32")


def _crop(image, top, left, height, width):
    """Cut a window out of (H, W, C), with zeros outside the image."""
    inside = image[max(top, 0) : top + height, max(left, 0) : left + width]
    above, before = max(-top, 0), max(-left, 0)
    below, after = height - above - inside.shape[0], width - before - inside.shape[1]
    return np.pad(inside, ((above, below), (before, after), (0, 0)))


def _resize_window(image, size, window, filter):
    """Resize to (height, width) and crop; only what is kept is resized, if that changes no bit.

    Along an axis, it changes none if Pillow's numbers are exact: the ends of its box, in float32, and the positions of
    its taps. The order of the two passes, which depends on the sizes, must also stay the same.
    """
    in_size = image.height, image.width
    sizes, starts, ends = list(size), list(window[:2]), list(in_size)
    box = [0, 0]
    for axis, (first, count) in enumerate(zip(window[:2], window[2:], strict=True)):
        scale = in_size[axis] / size[axis]
        places = first * scale, (first + count) * scale
        exact = (scale * 2**20).is_integer() and all(np.float32(place) == place for place in places)
        if exact and first >= 0 and first + count <= size[axis]:
            sizes[axis], starts[axis], (box[axis], ends[axis]) = count, 0, places
    if filter == Image.Resampling.NEAREST or vertical_first(in_size, size) != vertical_first(in_size, sizes):
        return _crop(np.asarray(image.resize(size[::-1], filter)), *window)
    pixels = np.asarray(image.resize(sizes[::-1], filter, box=(*box[::-1], *ends[::-1])))
    return _crop(pixels, *starts, *window[2:])


class BatchFeature(dict):
    """A dictionary of model inputs with attribute access: `model(**inputs)`, `inputs.pixel_values`."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class BaseImageProcessor(ProcessorConfig):
    """An image processor on the host; see `ProcessorConfig` for its parameters."""

    model_input_names = ["pixel_values"]

    def __call__(self, images, **options) -> BatchFeature:
        """Same as `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self, images, return_tensors=None, input_data_format=None, data_format="channels_last", **overrides
    ) -> BatchFeature:
        """Turn images into model inputs.

        Args:
            images: A path, bytes, file object, PIL image, array (H, W, C) or (H, W), batch (B, H, W, C), tensor, or a
                list of any of these.
            return_tensors: None, "np", or "tf", "pt" or "jax", whichever is Keras' backend. With None, results of
                different sizes come back as a list.
            input_data_format: "channels_first" or "channels_last" for arrays; by default channels first only
                when nothing else is possible.
            data_format: "channels_last"; the models of this library take no other.
            **overrides: Parameters of the processor, for this call only.

        Returns:
            BatchFeature with `pixel_values` (B, H, W, 3) float32 (uint8 images stay uint8 when neither rescaled
            nor normalised).

        Raises:
            ImageError: An image cannot be used; the message has its name or index.
        """
        if overrides:
            return self.replace(**overrides).preprocess(images, return_tensors, input_data_format, data_format)
        self._check(return_tensors, data_format)
        blocks, flat = [], list(flatten(images))
        for index, image in enumerate(flat):
            try:
                block = read_block(image, input_data_format, self.exif_orientation, self.do_convert_rgb)
                blocks.append(self._process(block))
            except ImageError as error:
                if len(flat) == 1:
                    raise
                raise ImageError(f"images[{index}]: {error}") from error
        return BatchFeature(pixel_values=self._collect(blocks, return_tensors))

    def pixels(self, image) -> np.ndarray:
        """Read, resize and crop one image, without any arithmetic on its values.

        Args:
            image: A path, bytes, file object, PIL image, or uint8 array (H, W, 3).

        Returns:
            (h, w, 3) uint8.

        Raises:
            ImageError: The image cannot be used.
        """
        if isinstance(image, ENCODED) or hasattr(image, "read"):
            return self._resize_and_crop_pillow(decode_pillow(image, self.exif_orientation, self.do_convert_rgb))
        return self._resize_and_crop(read_block(image)[0])

    def levels(self) -> np.ndarray:
        """Return what rescaling and normalising make of each level of each channel of `pixels`, (256, 3) float32.

        Looking values up is ten times as fast as computing them.
        """
        return self._rescale_and_normalize(np.repeat(np.arange(256, dtype="uint8")[:, None], 3, axis=1))

    def _check(self, return_tensors, data_format):
        if data_format != "channels_last":
            raise ValueError(
                "Expected data_format='channels_last', which the models of this library take (for others, transpose "
                f"pixel_values with (0, 3, 1, 2)). Received: data_format={data_format!r}."
            )
        backend = keras.backend.backend()
        if return_tensors not in (None, "np", _TENSORS[backend]):
            raise ValueError(
                f"Expected return_tensors to be None, 'np', or, with Keras' {backend} backend, {_TENSORS[backend]!r}. "
                f"Received: return_tensors={return_tensors!r}."
            )
        for needed, wanted_by in (("size", "do_resize"), ("crop_size", "do_center_crop")):
            if getattr(self, wanted_by) and getattr(self, needed) is None:
                raise ValueError(f"Expected {needed} to be given with {wanted_by}=True. Received: {needed}=None.")

    _concatenate = staticmethod(np.concatenate)

    def _collect(self, blocks, return_tensors):
        """Join blocks (B_i, H, W, 3) into one tensor of the wanted kind, or a list."""
        sizes = {tuple(block.shape[1:3]) for block in blocks}
        if len(sizes) == 1:
            convert = {None: lambda x: x, "np": ops.convert_to_numpy}.get(return_tensors, ops.convert_to_tensor)
            return convert(self._concatenate(blocks))
        if return_tensors or not sizes:
            raise ValueError(
                "Expected at least one image, and the same size for all after processing, to make one tensor. "
                f"Received: {counted(len(blocks), 'image')} of sizes {sorted(sizes)}. Set a fixed size or a centre "
                "crop; or pass return_tensors=None for a list."
            )
        return [image for block in blocks for image in block]

    def _process(self, block):
        """Turn pixels (B, H, W, 3) into values (B, h, w, 3)."""
        return np.stack([self._values(self._resize_and_crop(image)) for image in block])

    def _values(self, pixels):
        """Rescale and normalise (..., 3)."""
        if pixels.dtype != "uint8":
            return self._rescale_and_normalize(pixels)
        table = self.levels()
        return np.stack([table[:, channel].take(pixels[..., channel]) for channel in range(3)], axis=-1)

    def _resize_and_crop(self, image):
        if not self.do_resize:
            return _crop(image, *self.geometry(*image.shape[:2])[1])
        pixels, fractions = _as_uint8(image)
        pixels = self._resize_and_crop_pillow(Image.fromarray(pixels))
        return _rescale(pixels, 1 / 255) if fractions else pixels

    def _resize_and_crop_pillow(self, image):
        size, window = self.geometry(image.height, image.width)
        if not self.do_resize:
            return _crop(np.asarray(image), *window)
        if size[0] * size[1] > 16 * window[2] * window[3]:  # a long, thin image: never build all of it
            plan = plan_resize((image.height, image.width), size, FILTERS[self.resample], window)
            return resample(np.asarray(image)[plan.source], plan.rows, plan.columns, plan.vertical).astype("uint8")
        return _resize_window(image, size, window, self.resample)

    def _rescale_and_normalize(self, pixels):
        """Rescale and normalise with the dtypes and in the order of transformers."""
        if self.do_rescale:
            pixels = _rescale(pixels, self.rescale_factor)
        if self.do_normalize:
            pixels = pixels if pixels.dtype.kind == "f" else pixels.astype("float32")
            pixels = (pixels - np.array(self.image_mean, pixels.dtype)) / np.array(self.image_std, pixels.dtype)
        return pixels if pixels.dtype == "uint8" else pixels.astype("float32", copy=False)
