"""The contestants, each created in a process of its own: from files to a function that classifies one batch.

`make` loads a model from `Spec.folder` and returns `prepare`. This moves pixel values (B, H, W, C) float32 to where the
model takes them, and returns the call to be timed, which returns the logits (B, classes) in the host's memory, so that
nothing is left to do when it ends.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit.config import CONFIG_CLASSES, ViTConfig, read_config

Prepare = Callable[[np.ndarray], Callable[[], np.ndarray]]


class Spec(NamedTuple):
    """What a contestant needs to know.

    Attributes:
        folder: has the checkpoint in "hf", and beside it what `files` says for other contestants.
        dtype: dtype of weights and arithmetic.
    """

    folder: str
    dtype: str

    @property
    def config(self) -> ViTConfig:
        """The model's config."""
        values = self.values
        return CONFIG_CLASSES[values["model_type"]].from_dict(values)

    @property
    def values(self) -> dict[str, Any]:
        """The contents of config.json."""
        return read_config(Path(self.folder, "hf"))


def make(name: str, spec: Spec) -> Prepare:
    """Loads a contestant, by its name in `tfdeit.benchmark.CONTESTANTS`."""
    base, _, variant = name.partition("-")
    makers: dict[str, Callable[[Spec, str], Prepare]] = {
        "tfdeit": _tfdeit,
        "transformers": _transformers,
        "timm": _timm,
        "keras": _keras_hub,
        "openvino": functools.partial(_exported, format="openvino"),
        "onnxruntime": functools.partial(_exported, format="onnx"),
    }
    return makers[base](spec, variant)


def files(name: str) -> str | None:
    """Returns what a contestant needs besides the directory "hf": a format of `tfdeit.exports`, "timm", or None."""
    return {"openvino": "openvino", "onnxruntime": "onnx", "tfdeit-savedmodel": "savedmodel", "timm": "timm"}.get(name)


def matmul(dtype: str) -> tuple[Callable[[], Any], float]:
    """Returns a function that computes a large matrix product with the Keras backend, and its number of operations."""
    import keras

    device = _accelerated()
    size = 8192 if device else 2048
    ones = keras.ops.ones((size, size), dtype)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        product = tf.function(lambda: tf.reduce_sum((ones @ ones)[:1, :1]), autograph=False)
    elif keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(lambda a: (a @ a)[:1, :1])
        product = functools.partial(compiled, ones)
    else:

        def product():
            return (ones @ ones)[:1, :1]

    return lambda: keras.ops.convert_to_numpy(keras.ops.cast(product(), "float32")), 2 * size**3


def _accelerated() -> bool:
    """Whether the Keras backend computes on a GPU or TPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.get_visible_devices("GPU"))
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    return _torch_device() == "cuda"


def _torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ---------------------------------------------------------------------------------------------------- ours


def _tfdeit(spec, variant):
    import keras

    from tfdeit.network.models import TFAutoModelForImageClassification

    if variant == "savedmodel":
        return _exported(spec, format="savedmodel")
    backend = keras.backend.backend()
    model = TFAutoModelForImageClassification.from_pretrained(Path(spec.folder, "hf"), dtype=spec.dtype)
    if variant == "predict":
        return lambda pixels: lambda: np.asarray(model.predict_on_batch(pixels).logits, "float32")
    jit = variant == "jit" or (variant == "" and (backend == "jax" or _accelerated()))
    run = {"tensorflow": _tensorflow_function, "jax": _jax_function, "torch": _torch_function}[backend](model, jit)
    return lambda pixels: functools.partial(run, keras.ops.convert_to_tensor(pixels))


def _tensorflow_function(model, jit):
    import tensorflow as tf

    shape = (None, *model.config.image_hw, model.config.num_channels)
    signature = None if jit else [tf.TensorSpec(shape, tf.float32)]  # any batch size, as in exported models
    run = tf.function(
        lambda pixels: tf.cast(model(pixels, training=False).logits, tf.float32),
        signature,
        jit_compile=jit,
        autograph=False,
    )
    return lambda pixels: run(pixels).numpy()


def _jax_function(model, jit):
    import jax

    variables = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]

    def call(variables, pixels):
        return model.stateless_call(*variables, pixels, training=False)[0].logits

    call = jax.jit(call) if jit else call
    return lambda pixels: np.asarray(call(variables, pixels), "float32")


def _torch_function(model, jit):
    import torch

    def call(pixels):
        return model(pixels, training=False).logits.float()

    call = torch.compile(call) if jit else call

    def run(pixels):
        with torch.inference_mode():
            return call(pixels).cpu().numpy()

    return run


def _exported(spec, variant="", *, format):
    from tfdeit.exports import implementation

    run = implementation(format).load(Path(spec.folder, format), spec.dtype)
    return lambda pixels: lambda: np.asarray(run(pixels), "float32")


# -------------------------------------------------------------------------------------------------- others


def _transformers(spec, variant):
    import transformers

    if variant.startswith("tf"):
        return _transformers_tf(spec, jit=variant == "tf-jit")
    import torch

    model = getattr(transformers, spec.values["architectures"][0]).from_pretrained(
        Path(spec.folder, "hf"), dtype=getattr(torch, spec.dtype), attn_implementation="sdpa"
    )
    return _pytorch(model, spec, variant, lambda outputs: outputs.logits)


def _transformers_tf(spec, jit):
    import tensorflow as tf
    import transformers
    from safetensors.numpy import load_file
    from transformers import modeling_tf_pytorch_utils as files

    folder = Path(spec.folder, "hf")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, f"TF{config.architectures[0]}")(config)
    # Its `from_pretrained` iterates over a `safe_open`, which is not iterable.
    files.load_pytorch_state_dict_in_tf2_model(model, load_file(folder / "model.safetensors"))
    call = tf.function(lambda pixels: model(pixels, training=False).logits, jit_compile=jit, autograph=False)

    def prepare(pixels):
        tensor = tf.constant(pixels.transpose(0, 3, 1, 2))
        return lambda: call(tensor).numpy()

    return prepare


def _timm(spec, variant):
    import torch
    from safetensors.torch import load_file

    from tfdeit.parity import timm_model

    model = timm_model(spec.config, spec.config.no_embed_class)
    model.load_state_dict(load_file(Path(spec.folder, "timm.safetensors")))
    return _pytorch(model.to(getattr(torch, spec.dtype)), spec, variant, lambda logits: logits)


def _pytorch(model, spec, variant, logits):
    import torch

    device = _torch_device()
    model = model.to(device).eval()
    call = torch.compile(model) if variant == "compile" else model

    def prepare(pixels):
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        tensor = tensor.to(device, getattr(torch, spec.dtype))

        def run():
            with torch.inference_mode():
                return logits(call(tensor)).float().cpu().numpy()

        return run

    return prepare


def _keras_hub(spec, variant):
    import keras
    from keras_hub import models

    config = spec.config
    distilled = config.num_prefix_tokens == 2
    sizes = {"num_layers": config.num_hidden_layers, "num_heads": config.num_attention_heads}
    sizes |= {"hidden_dim": config.hidden_size, "image_shape": (*config.image_hw, config.num_channels)}
    if distilled:
        sizes |= {"intermediate_dim": config.intermediate_size, "patch_size": config.patch_hw[0]}
        backbone = models.DeiTBackbone(**sizes, dtype=spec.dtype)
    else:
        sizes |= {"mlp_dim": config.intermediate_size, "patch_size": config.patch_hw}
        backbone = models.ViTBackbone(**sizes, dtype=spec.dtype)
    tokens = backbone.output
    heads = [keras.layers.Dense(config.num_labels, dtype=spec.dtype)(tokens[:, i]) for i in range(1 + distilled)]
    model = keras.Model(backbone.input, keras.ops.mean(keras.ops.stack(heads), axis=0))
    model.compile(jit_compile=variant == "hub-jit")
    return lambda pixels: lambda: np.asarray(model.predict_on_batch(pixels), "float32")
