"""The backbone, and what all models have in common: inputs, files, training with stock losses."""

import functools
import os
from collections.abc import Mapping

import keras
from keras import ops

from tfdeit.checkpoint.files import load_pretrained, save_pretrained
from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.network.kernels import on_tensorflow_cpu
from tfdeit.network.layers import (
    ACTIVATION_FUNCTIONS,
    ConfiguredLayer,
    PatchEmbedding,
    TokenConcatenation,
    TransformerBlock,
    zero_kernels,
)
from tfdeit.network.outputs import BackboneOutput


def takes_dict(call):
    """Lets `call` also take its arguments as one dict, which is how tf.data and `fit` pass several inputs."""

    @functools.wraps(call)
    def unpacking(self, pixel_values, *args, **kwargs):
        if isinstance(pixel_values, Mapping):
            if "pixel_values" not in pixel_values:
                raise ValueError(f"Expected a dict with the key 'pixel_values'. Received: keys {[*pixel_values]}.")
            return call(self, *args, **{**pixel_values, **kwargs})
        return call(self, pixel_values, *args, **kwargs)

    return unpacking


def _backbone(model):
    # Not a property of every model: Keras walks through an object's attributes, and would never get past itself.
    return getattr(model, "backbone", model)


class PretrainedModel(ConfiguredLayer, keras.Model):
    """A model built from a config, which reads and writes Hugging Face's directory format.

    Args:
        config: an instance of `config_class`.
        **kwargs: `name`, `dtype` (a Keras dtype policy: "bfloat16" stores and computes in bfloat16, "mixed_bfloat16"
            stores in float32).

    Raises:
        ValueError: if the config is of another type.
    """

    config_class = ViTConfig
    model_options: tuple[str, ...] = ()  # arguments of the class, besides the config, that `from_pretrained` takes too

    def __init__(self, config: ViTConfig, **kwargs):
        if type(config) is not self.config_class:
            raise ValueError(
                f"Expected a {self.config_class.__name__} for {type(self).__name__}. Received: {config!r}."
            )
        super().__init__(config, **kwargs)
        self.create_layers()
        self.build((None, *config.image_hw, config.num_channels))
        if on_tensorflow_cpu():  # for `predict` without `compile`: a graph's fused kernels are faster than XLA
            self.jit_compile = False

    def summary(self, *args, **kwargs):
        # Keras prints only shapes that it has seen.
        self(keras.KerasTensor((None, *self.config.image_hw, self.config.num_channels)))
        super().summary(*args, **kwargs)

    def export(self, *args, **kwargs):
        """Exports a graph from pixel values to a dict of outputs; arguments as in `keras.Model.export`."""
        inputs = keras.Input((*self.config.image_hw, self.config.num_channels), name="pixel_values")
        outputs = self(inputs)._asdict()
        tensors = {name: value for name, value in outputs.items() if not isinstance(value, tuple)}
        keras.Model(inputs, tensors).export(*args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        own_loss = getattr(y_pred, "loss", ())
        if y is None and not isinstance(own_loss, tuple):  # labels or mask came with the inputs
            return ops.mean(own_loss)
        return super().compute_loss(x, y, y_pred[0], sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred[0], sample_weight)

    @classmethod
    def with_zero_kernels(cls, *args, **kwargs) -> "PretrainedModel":
        """Builds the model with zero kernels, which the caller assigns next: drawing them takes most of the time."""
        with zero_kernels():
            return cls(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options) -> "PretrainedModel":
        """Builds the model and reads its weights: see `tfdeit.checkpoint.files.load_pretrained` for the options.

        `from_pt`, which transformers' TensorFlow classes need to read PyTorch's files, is accepted and ignored.
        """
        options.pop("from_pt", None)
        model_options = {name: options.pop(name) for name in cls.model_options if name in options}
        return load_pretrained(cls, source, model_options=model_options, **options)

    def save_pretrained(self, directory: str | os.PathLike, **options):
        """Writes config.json and model.safetensors, which transformers reads too: see `checkpoint.files`."""
        save_pretrained(self, directory, **options)

    def extract_feat(self, pixel_values) -> tuple:
        """Returns the features that a classifier sees, as MMPretrain nests them, after the final LayerNorm.

        Args:
            pixel_values: (B, H, W, C), as the image processor returns them.

        Returns:
            One entry, for the last block: the class token (B, D); for a DeiT, the pair of class and distillation
            token, each (B, D).
        """
        count = self.config.num_prefix_tokens
        tokens = _backbone(self)(pixel_values, read=count).last_hidden_state
        features = tuple(tokens[:, i] for i in range(count))
        return (features,) if len(features) > 1 else features

    def gradient_checkpointing_enable(self, enable: bool = True):
        """Makes training recompute each block's activations instead of keeping them; call it before `fit`."""
        _backbone(self).gradient_checkpointing = enable

    def gradient_checkpointing_disable(self):
        """Makes training keep all activations."""
        self.gradient_checkpointing_enable(False)


@keras.saving.register_keras_serializable("tfdeit")
class TFViTModel(PretrainedModel):
    """The ViT backbone, with an optional pooler.

    Args:
        config: a `ViTConfig`.
        add_pooling_layer: whether to add the pooler, a dense layer on the final class token.
        use_mask_token: whether masked patches can be replaced by a learned token.
        **kwargs: see `PretrainedModel`.
    """

    model_options = ("add_pooling_layer", "use_mask_token")

    def __init__(self, config, add_pooling_layer=True, use_mask_token=False, **kwargs):
        self._options = {"add_pooling_layer": add_pooling_layer, "use_mask_token": use_mask_token}
        self.gradient_checkpointing = False
        super().__init__(config, **kwargs)

    def create_layers(self):
        config, policy = self.config, self.dtype_policy
        self.patch_embedding = PatchEmbedding(config, dtype=policy, name="patch_embedding")
        self.token_concatenation = TokenConcatenation(
            config, self._options["use_mask_token"], dtype=policy, name="token_concatenation"
        )
        self.blocks = [
            TransformerBlock(config, rate, dtype=policy, name=f"block_{i}")
            for i, rate in enumerate(config.drop_path_rates)
        ]
        self.final_norm = self.norm("norm")
        self.pooler = None
        if self._options["add_pooling_layer"]:
            self.pooler = self.dense(
                config.pooler_output_size, "pooler", activation=ACTIVATION_FUNCTIONS[config.pooler_act]
            )

    def build(self, input_shape):
        tokens = (None, None, self.config.hidden_size)
        self.patch_embedding.build(input_shape)
        for layer in (self.token_concatenation, *self.blocks, self.final_norm):
            layer.build(tokens)
        if self.pooler:
            self.pooler.build((None, self.config.hidden_size))

    @takes_dict
    def call(
        self,
        pixel_values,
        bool_masked_pos=None,
        head_mask=None,
        output_attentions=None,
        output_hidden_states=None,
        interpolate_pos_encoding=False,
        read=None,
        training=None,
    ):
        """Computes the features.

        Args:
            pixel_values: (B, H, W, C) float; H and W are the config's unless `interpolate_pos_encoding`.
            bool_masked_pos: (B, N) bool, patches to replace by the mask token.
            head_mask: (heads,) or (depth, heads) floats; 0 removes a head.
            output_attentions: whether to return each block's attention probabilities; None means the config's choice.
            output_hidden_states: whether to return each block's tokens; None means the config's choice.
            interpolate_pos_encoding: whether to fit the position table to any H and W that are multiples of the patch.
            read: number of leading tokens that the caller reads: the last block computes only these, unless
                attentions or hidden states are asked for. None means all.
            training: whether dropout and stochastic depth are active.

        Returns:
            A `BackboneOutput`.

        Raises:
            ValueError: if the pixel values have another layout, size or dtype, or a mask does not fit.
        """
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(pixel_values.dtype)):
            raise ValueError(
                f"Expected floating-point pixel_values, as an image processor returns. Received: dtype "
                f"{pixel_values.dtype}. Run the checkpoint's image processor on the images first."
            )
        grid = self.patch_embedding.compute_grid(pixel_values.shape, interpolate_pos_encoding)
        if bool_masked_pos is not None:
            self._check_patch_mask(bool_masked_pos, grid)
        head_masks = self._split_head_mask(head_mask)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        tokens = self.token_concatenation(self.patch_embedding(pixel_values), bool_masked_pos, grid=grid)
        hidden_states, attentions = [tokens], []
        run = recompute if self.gradient_checkpointing and training else keras.layers.Layer.__call__
        if output_attentions or output_hidden_states:
            read = None
        for block, mask in zip(self.blocks, head_masks, strict=True):
            count = read if block is self.blocks[-1] else None
            tokens, attention = run(block, tokens, head_mask=mask, output_attentions=output_attentions, read=count)
            hidden_states.append(tokens)
            attentions.append(attention)
        tokens = self.final_norm(tokens)
        return BackboneOutput(
            last_hidden_state=tokens,
            pooler_output=self.pooler(tokens[:, 0]) if self.pooler else (),
            hidden_states=tuple(hidden_states) if output_hidden_states else (),
            attentions=tuple(attentions) if output_attentions else (),
        )

    def _check_patch_mask(self, mask, grid):
        if not self._options["use_mask_token"]:
            raise ValueError(
                "Expected a model with a mask token for bool_masked_pos. Received one without: use a "
                f"ForMaskedImageModeling class, or {type(self).__name__}(config, use_mask_token=True)."
            )
        count = grid[0] * grid[1]
        if len(mask.shape) != 2 or mask.shape[1] not in (None, count):
            raise ValueError(f"Expected bool_masked_pos of shape (batch, {count}). Received: {tuple(mask.shape)}.")

    def _split_head_mask(self, head_mask):
        depth, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        if head_mask is None:
            return [None] * depth
        head_mask = ops.convert_to_tensor(head_mask)
        if tuple(head_mask.shape) not in ((heads,), (depth, heads)):
            raise ValueError(
                f"Expected head_mask of shape ({heads},) or ({depth}, {heads}). Received: {tuple(head_mask.shape)}."
            )
        return ops.unstack(ops.broadcast_to(head_mask, (depth, heads)))

    def get_config(self):
        return {**super().get_config(), **self._options}


def recompute(block, tokens, **options):
    """Runs `block` in training, keeping only its inputs: the backward pass recomputes the rest.

    The block's variables go in, and its random state comes out, as values, so that the recomputation draws the same
    dropout masks as the first pass, on every backend.
    """
    trainable, state = block.trainable_variables, block.non_trainable_variables

    def pure(tokens, *values):
        trained, rest = values[: len(trainable)], values[len(trainable) :]
        return block.stateless_call(trained, rest, tokens, training=True, **options)

    values = [ops.convert_to_tensor(v) for v in trainable] + [ops.copy(v) for v in state]  # torch assigns in place
    outputs, new_state = keras.remat(pure)(tokens, *values)
    for variable, value in zip(state, new_state, strict=True):
        variable.assign(value)
    return outputs


@keras.saving.register_keras_serializable("tfdeit")
class TFDeiTModel(TFViTModel):
    """The distilled DeiT backbone, with an optional pooler. Arguments are those of `TFViTModel`."""

    config_class = DeiTConfig
