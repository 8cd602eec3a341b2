"""The layers of a Vision Transformer, from the pixels up.

Shape comments: B images, T tokens, R tokens that are read, N patches, D width, M hidden width of the MLP, d width of a
head. Within a block, tensors are 2-D: TensorFlow does not fuse a matrix product with its bias, activation and residual
if a Reshape comes between them.
"""

import contextlib
import contextvars
import functools

import keras
from keras import ops

from tfdeit.config import CONFIG_CLASSES, ViTConfig
from tfdeit.network.kernels import LayerNorm, reshape_like, softmax
from tfdeit.resample import interpolation_matrix

ACTIVATION_FUNCTIONS = {
    "gelu": functools.partial(keras.activations.gelu, approximate=False),
    "gelu_new": functools.partial(keras.activations.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(keras.activations.gelu, approximate=True),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "relu": keras.activations.relu,
    "selu": keras.activations.selu,
    "sigmoid": keras.activations.sigmoid,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "tanh": keras.activations.tanh,
}

_zero_kernels = contextvars.ContextVar("zero_kernels", default=False)


@contextlib.contextmanager
def zero_kernels():
    """Makes layers created inside it start with zero kernels: drawing random ones is most of building a model."""
    token = _zero_kernels.set(True)
    try:
        yield
    finally:
        _zero_kernels.reset(token)


class ConfiguredLayer(keras.layers.Layer):
    """A layer built from the model's config.

    Args:
        config: a `ViTConfig` or `DeiTConfig`.
    """

    def __init__(self, config: ViTConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def dense(self, units: int, name: str, **kwargs) -> keras.layers.Dense:
        """Returns a Dense layer of this layer's dtype, initialised as in the papers."""
        return keras.layers.Dense(
            units, kernel_initializer=self.kernel_initializer(), dtype=self.dtype_policy, name=name, **kwargs
        )

    def norm(self, name: str) -> LayerNorm:
        """Returns a LayerNorm with the checkpoint's epsilon."""
        return LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype_policy, name=name)

    def normal_initializer(self) -> keras.initializers.Initializer:
        """Returns the papers' initialiser, without its truncation at +-2, a hundred standard deviations away."""
        return keras.initializers.RandomNormal(stddev=self.config.initializer_range)

    def kernel_initializer(self) -> keras.initializers.Initializer:
        """Returns the normal initialiser, or zeros inside `zero_kernels`."""
        return keras.initializers.Zeros() if _zero_kernels.get() else self.normal_initializer()

    def get_config(self):
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        values = config.pop("config")
        return cls(CONFIG_CLASSES[values["model_type"]].from_dict(values), **config)


@keras.saving.register_keras_serializable("tfdeit")
class PatchEmbedding(ConfiguredLayer):
    """Cuts images into patches and projects each: (B, H, W, C) -> (B, N, D), patches in row-major order."""

    def __init__(self, config: ViTConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.projection = keras.layers.Conv2D(
            config.hidden_size,
            config.patch_hw,
            strides=config.patch_hw,
            data_format="channels_last",
            kernel_initializer=self.kernel_initializer(),
            dtype=self.dtype_policy,
            name="projection",
        )

    def build(self, input_shape):
        self.projection.build(input_shape)

    def call(self, pixel_values):
        # Not from the shape of the convolution's result: Keras returns an empty batch as it is.
        rows, columns = self.compute_grid(pixel_values.shape, interpolate=True)
        patches = self.projection(pixel_values)  # (B, H/p, W/p, D)
        return ops.reshape(patches, (-1, rows * columns, self.config.hidden_size))

    def compute_grid(self, shape: tuple, interpolate: bool) -> tuple[int, int]:
        """Returns the rows and columns of patches of images of `shape` (B, H, W, C).

        Raises:
            ValueError: if the model cannot take such images.
        """
        height, width, channels = *self.config.image_hw, self.config.num_channels
        expected = f"Expected pixel_values of shape (batch, {height}, {width}, {channels}), channels last."
        if len(shape) != 4:
            raise ValueError(f"{expected} Received: shape {tuple(shape)}. Add the batch axis with pixel_values[None].")
        if shape[3] != channels:
            transpose = "np.transpose(pixel_values, (0, 2, 3, 1))"
            hint = f" They are channels first: pass {transpose}." if shape[1] == channels else ""
            raise ValueError(f"{expected} Received: shape {tuple(shape)}.{hint}")
        if None in shape[1:3]:
            raise ValueError(
                f"{expected} Received: shape {tuple(shape)}. Give the height and width statically, as the position "
                "table is fitted to them (Keras: Input((height, width, 3)); tf.data: set_shape or ensure_shape)."
            )
        if not interpolate and tuple(shape[1:3]) != (height, width):
            raise ValueError(
                f"{expected} Received: shape {tuple(shape)}. Resize the images with the model's image processor, pass "
                "interpolate_pos_encoding=True, or load the model with from_pretrained(..., image_size=...)."
            )
        if any(side == 0 or side % patch for side, patch in zip(shape[1:3], self.config.patch_hw, strict=True)):
            raise ValueError(
                f"Expected image sides that are multiples of patch_size={self.config.patch_size}. "
                f"Received: height {shape[1]}, width {shape[2]}."
            )
        return tuple(side // patch for side, patch in zip(shape[1:3], self.config.patch_hw, strict=True))


@keras.saving.register_keras_serializable("tfdeit")
class TokenConcatenation(ConfiguredLayer):
    """Puts [CLS] (and DeiT's [DIST]) before the patches and adds the position table: (B, N, D) -> (B, T, D).

    Args:
        config: the model's config.
        use_mask_token: whether masked patches can be replaced by a learned token.
    """

    def __init__(self, config: ViTConfig, use_mask_token: bool = False, **kwargs):
        super().__init__(config, **kwargs)
        self.use_mask_token = use_mask_token
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape):
        width = self.config.hidden_size
        near_zero = keras.initializers.RandomNormal(stddev=1e-6)
        self.cls_token = self.add_weight(shape=(1, 1, width), initializer=near_zero, name="cls_token")
        self.prefix = [self.cls_token]
        if self.config.num_prefix_tokens == 2:
            self.distillation_token = self.add_weight(
                shape=(1, 1, width), initializer=self.normal_initializer(), name="distillation_token"
            )
            self.prefix.append(self.distillation_token)
        if self.use_mask_token:
            self.mask_token = self.add_weight(shape=(1, 1, width), initializer="zeros", name="mask_token")
        self.position_embeddings = self.add_weight(
            shape=(1, self.config.num_prefix_positions + self.config.num_patches, width),
            initializer=self.normal_initializer(),
            name="position_embeddings",
        )

    def call(self, patches, bool_masked_pos=None, grid=None):
        """Adds tokens and positions.

        Args:
            patches: (B, N, D).
            bool_masked_pos: (B, N) bool, the patches that the mask token replaces, or None.
            grid: rows and columns of `patches`; None means the config's.

        Returns:
            (B, T, D) tokens.
        """
        if bool_masked_pos is not None:
            masked = ops.cast(bool_masked_pos, "bool")[..., None]  # (B, N, 1)
            patches = ops.where(masked, ops.cast(self.mask_token, patches.dtype), patches)
        batch = ops.shape(patches)[0]
        prefix = [ops.broadcast_to(token, (batch, 1, self.config.hidden_size)) for token in self.prefix]
        positions = self.positions(grid or self.config.grid)
        if self.config.no_embed_class:
            return self.dropout(ops.concatenate([*prefix, patches + positions], axis=1))
        return self.dropout(ops.concatenate([*prefix, patches], axis=1) + positions)

    def positions(self, grid: tuple[int, int]):
        """Returns the position table (1, T or N, D), the patches' part interpolated to `grid` as by torch's bicubic."""
        table = ops.convert_to_tensor(self.position_embeddings)
        if grid == self.config.grid:
            return table
        count, (rows, columns) = self.config.num_prefix_positions, self.config.grid
        patches = ops.reshape(ops.cast(table[0, count:], "float32"), (rows, columns, -1))
        vertical = ops.convert_to_tensor(interpolation_matrix(rows, grid[0]), "float32")
        horizontal = ops.convert_to_tensor(interpolation_matrix(columns, grid[1]), "float32")
        patches = ops.einsum("yh,hwd,xw->yxd", vertical, patches, horizontal)
        patches = ops.reshape(ops.cast(patches, table.dtype), (1, grid[0] * grid[1], -1))
        return ops.concatenate([table[:, :count], patches], axis=1)

    def get_config(self):
        return {**super().get_config(), "use_mask_token": self.use_mask_token}


@keras.saving.register_keras_serializable("tfdeit")
class SelfAttention(ConfiguredLayer):
    """Multi-head self-attention: (B*T, D) -> (B*R, D) and, when asked for, the probabilities (B, heads, R, T)."""

    def __init__(self, config: ViTConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = self.dense(3 * config.hidden_size, "qkv", use_bias=config.qkv_bias)
        self.dropout = keras.layers.Dropout(
            config.attention_probs_dropout_prob, dtype=self.dtype_policy, name="dropout"
        )
        self.projection = self.dense(config.hidden_size, "projection")

    def build(self, input_shape):
        self.qkv.build((None, self.config.hidden_size))
        self.projection.build((None, self.config.hidden_size))

    def call(self, tokens, length, read, head_mask=None, output_attentions=False, training=None):
        """Attends.

        Args:
            tokens: (B*T, D).
            length: T.
            read: R: the first R tokens of each image attend to all T.
            head_mask: (heads,) floats that scale each head's probabilities (0 removes a head), or None.
            output_attentions: whether to return the probabilities.
            training: whether dropout is active.

        Returns:
            (B*R, D) tokens, and (B, heads, R, T) probabilities, or `()`.
        """
        width = self.config.hidden_size
        qkv = self.qkv(tokens)  # (B*T, 3D)
        qkv = ops.reshape(qkv, (-1, length, 3, self.config.num_attention_heads, self.head_dim))
        dropping = training and self.config.attention_probs_dropout_prob > 0
        if self.has_fused_attention() and head_mask is None and not output_attentions and not dropping:
            query, key, value = ops.unstack(qkv, axis=2)  # each (B, T, heads, d)
            context, probabilities = ops.dot_product_attention(query[:, :read], key, value), ()
        else:
            query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)))  # each (B, heads, T, d)
            query = query[:, :, :read] * self.head_dim**-0.5
            scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # (B, heads, R, T)
            probabilities = self.dropout(softmax(scores, training))
            if head_mask is not None:
                probabilities = probabilities * ops.reshape(ops.cast(head_mask, scores.dtype), (1, -1, 1, 1))
            context = ops.transpose(ops.matmul(probabilities, value), (0, 2, 1, 3))  # (B, R, heads, d)
        context = reshape_like(context, tokens) if read == length else ops.reshape(context, (-1, width))
        outputs = self.projection(context)  # (B*R, D)
        return outputs, probabilities if output_attentions else ()

    def has_fused_attention(self) -> bool:
        """Whether the config asks for "sdpa" and the backend has a kernel for it (TensorFlow has none)."""
        return self.config.attn_implementation == "sdpa" and keras.backend.backend() != "tensorflow"


@keras.saving.register_keras_serializable("tfdeit")
class MLP(ConfiguredLayer):
    """Two dense layers with an activation between them: (B*R, D) -> (B*R, D)."""

    def __init__(self, config: ViTConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.fc1 = self.dense(config.intermediate_size, "fc1", activation=ACTIVATION_FUNCTIONS[config.hidden_act])
        self.fc2 = self.dense(config.hidden_size, "fc2")

    def build(self, input_shape):
        self.fc1.build((None, self.config.hidden_size))
        self.fc2.build((None, self.config.intermediate_size))

    def call(self, tokens):
        return self.fc2(self.fc1(tokens))  # (B*R, M), (B*R, D)


@keras.saving.register_keras_serializable("tfdeit")
class TransformerBlock(ConfiguredLayer):
    """A pre-norm block of attention and MLP: (B, T, D) -> (B, R, D) and the attention probabilities, or `()`.

    Args:
        config: the model's config.
        drop_path: probability of dropping a whole branch for an image (stochastic depth, Huang et al. 2016).
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0, **kwargs):
        super().__init__(config, **kwargs)
        self.drop_path_rate = drop_path
        self.norm1 = self.norm("norm1")
        self.attention = SelfAttention(config, dtype=self.dtype_policy, name="attention")
        self.norm2 = self.norm("norm2")
        self.mlp = MLP(config, dtype=self.dtype_policy, name="mlp")
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy, name="dropout")
        # Dropout with one draw per image is stochastic depth: both divide by the keep probability.
        self.drop_path = keras.layers.Dropout(
            drop_path, noise_shape=(None, 1, 1), dtype=self.dtype_policy, name="drop_path"
        )

    def build(self, input_shape):
        for layer in (self.norm1, self.attention, self.norm2, self.mlp):
            layer.build(input_shape)
        value = self.config.layerscale_value
        self.layer_scales = [] if value is None else [self.add_layer_scale(i, value) for i in (1, 2)]

    def add_layer_scale(self, number, value):
        """Returns the variable that scales branch `number`, (D,): LayerScale, Touvron et al. 2021."""
        initializer = keras.initializers.Constant(value)
        return self.add_weight(shape=(self.config.hidden_size,), initializer=initializer, name=f"layer_scale{number}")

    def call(self, tokens, head_mask=None, output_attentions=False, read=None, training=None):
        """Computes the first `read` tokens of each image, or all if None; the rest as in `SelfAttention.call`."""
        length, width = tokens.shape[1:]
        read = length if read is None else min(read, length)
        rows = ops.reshape(tokens, (-1, width))  # (B*T, D)
        attended, probabilities = self.attention(
            self.norm1(rows),
            length=length,
            read=read,
            head_mask=head_mask,
            output_attentions=output_attentions,
            training=training,
        )
        if read < length:
            # Sliced from `rows`: if `tokens` were used again, TensorFlow would bypass `rows`, which LayerNorm needs.
            rows = ops.reshape(ops.reshape(rows, (-1, length, width))[:, :read], (-1, width))  # (B*R, D)
        rows = rows + self.drop(self.scale(attended, 0), read, training)
        rows = rows + self.drop(self.scale(self.mlp(self.norm2(rows)), 1), read, training)
        return ops.reshape(rows, (-1, read, width)), probabilities

    def scale(self, branch, index):
        if not self.layer_scales:
            return branch
        return branch * ops.cast(self.layer_scales[index], branch.dtype)  # `recompute` passes stored dtypes

    def drop(self, branch, read, training):
        """Applies dropout and stochastic depth; `training` is explicit, as `recompute` runs outside Keras' context."""
        if not training or not (self.drop_path_rate or self.config.hidden_dropout_prob):
            return branch
        images = ops.reshape(branch, (-1, read, self.config.hidden_size))
        return reshape_like(self.drop_path(self.dropout(images, training=training), training=training), branch)

    def get_config(self):
        return {**super().get_config(), "drop_path": self.drop_path_rate}
