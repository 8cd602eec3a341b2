"""Model configurations: the fields of a Hugging Face config.json, validated, with parameters and MACs derived."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tfdeit.presentation.hints import did_you_mean

ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa")

Size = int | tuple[int, int]
_DERIVED: Any = None  # default of fields that are derived from others: in a config they are never None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Architecture and labels of a Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Field names and defaults are those of Hugging Face's config.json. Other keys of a file are kept in `extra` and
    written back by `to_dict`.

    Args:
        hidden_size: width D of the tokens; a multiple of `num_attention_heads`.
        num_hidden_layers: number of transformer blocks.
        num_attention_heads: heads per block.
        intermediate_size: width of the MLP's hidden layer.
        hidden_act: activation of the MLP, one of `ACTIVATIONS`; "gelu" is the exact (erf) one.
        hidden_dropout_prob: dropout rate after the embeddings and on both branches of a block, in [0, 1).
        attention_probs_dropout_prob: dropout rate of the attention probabilities, in [0, 1).
        drop_path_rate: rate of stochastic depth in the last block, in [0, 1); it rises linearly from 0.
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: epsilon of every LayerNorm; depends on the checkpoint (1e-12 on the hub, 1e-6 in timm).
        image_size: pixels, one int or (height, width); a multiple of `patch_size`.
        patch_size: pixels, one int or (height, width).
        num_channels: channels of the image.
        qkv_bias: whether the query, key and value projections have a bias.
        encoder_stride: side, in pixels, of the square that the masked-image decoder writes for each token.
        pooler_output_size: width of the pooler; None means `hidden_size`.
        pooler_act: activation of the pooler, one of `ACTIVATIONS`.
        layerscale_value: initial value of LayerScale, a learned factor per channel on both branches of a block, as in
            DeiT III; None for no LayerScale. Named as in transformers' DINOv2; its ViT and DeiT have none.
        no_embed_class: whether the position table has rows for the patches only, as in DeiT III. Named as in timm.
        uniform_drop_path: whether all blocks have the rate `drop_path_rate`, as in DeiT III.
        attn_implementation: "sdpa" uses the backend's fused attention where it has one, "eager" never does.
        output_hidden_states: default of the models' argument of the same name.
        output_attentions: default of the models' argument of the same name.
        num_labels: number of classes; None means as many as `id2label` has, or 2. 0 removes the head.
        id2label: class index -> name; None means LABEL_0, LABEL_1, ...
        label2id: class name -> index; None means the inverse of `id2label`.
        extra: other keys of the config.json.

    Raises:
        ValueError: naming the field, what was expected and what was received.
    """

    model_type: ClassVar[str] = "vit"
    num_prefix_tokens: ClassVar[int] = 1  # [CLS]

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int = _DERIVED
    pooler_act: str = "tanh"
    layerscale_value: float | None = None
    no_embed_class: bool = False
    uniform_drop_path: bool = False
    attn_implementation: str = "sdpa"
    output_hidden_states: bool = False
    output_attentions: bool = False
    num_labels: int = _DERIVED
    id2label: Mapping[int, str] = _DERIVED
    label2id: Mapping[str, int] = _DERIVED
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size"):
            if isinstance(getattr(self, name), (list, tuple)):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._resolve_labels()
        if self.pooler_output_size is None:
            object.__setattr__(self, "pooler_output_size", self.hidden_size)
        self._validate()

    def _resolve_labels(self) -> None:
        names = self.id2label
        if names is None:
            count = 2 if self.num_labels is None else self.num_labels
            _check(isinstance(count, int) and count >= 0, "num_labels", "an int of at least 0", count)
            names = {index: f"LABEL_{index}" for index in range(count)}
        elif not isinstance(names, Mapping):
            names = dict(enumerate(names))
        names = {int(index): str(name) for index, name in names.items()}
        expected = set(range(len(names)))
        _check(set(names) == expected, "id2label", f"the indices 0 to {len(names) - 1}, each once", sorted(names))
        if self.num_labels not in (None, len(names)):
            raise ValueError(
                f"Expected num_labels to equal the number of names in id2label ({len(names)}). "
                f"Received: num_labels={self.num_labels}. Give one of the two."
            )
        object.__setattr__(self, "id2label", dict(sorted(names.items())))
        object.__setattr__(self, "num_labels", len(names))
        label2id = self.label2id if self.label2id is not None else {name: i for i, name in sorted(names.items())}
        object.__setattr__(self, "label2id", {str(name): int(index) for name, index in label2id.items()})

    def _validate(self) -> None:
        for names, valid, expected in _FIELD_CHECKS:
            for name in names:
                _check(valid(getattr(self, name)), name, expected, getattr(self, name))
        heads = self.num_attention_heads
        divides = self.hidden_size % heads == 0
        _check(divides, "hidden_size", f"a multiple of num_attention_heads={heads}", self.hidden_size)
        divides = all(i % p == 0 for i, p in zip(self.image_hw, self.patch_hw, strict=True))
        _check(divides, "image_size", f"a multiple of patch_size={self.patch_size}", self.image_size)

    # Derived sizes.

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Patch height and width in pixels."""
        return self.patch_size if isinstance(self.patch_size, tuple) else (self.patch_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_hw[0] // self.patch_hw[0], self.image_hw[1] // self.patch_hw[1]

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, N."""
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of an image, T: the prefix tokens and the patches."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def num_prefix_positions(self) -> int:
        """Number of rows of the position table before those of the patches."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    @property
    def drop_path_rates(self) -> list[float]:
        """Rate of stochastic depth in each block."""
        rate, last = self.drop_path_rate, max(self.num_hidden_layers - 1, 1)
        return [rate if self.uniform_drop_path else rate * i / last for i in range(self.num_hidden_layers)]

    @property
    def num_params(self) -> int:
        """Number of parameters of the classifier: the backbone without pooler, and one head per prefix token."""
        width, hidden, patch = self.hidden_size, self.intermediate_size, self.patch_hw[0] * self.patch_hw[1]
        positions = self.num_prefix_positions + self.num_patches
        embeddings = (patch * self.num_channels + 1) * width + (self.num_prefix_tokens + positions) * width
        attention = (width + self.qkv_bias) * 3 * width + (width + 1) * width
        mlp = (width + 1) * hidden + (hidden + 1) * width
        scales = 0 if self.layerscale_value is None else 2 * width
        blocks = self.num_hidden_layers * (attention + mlp + 4 * width + scales)
        heads = self.num_prefix_tokens * (width + 1) * self.num_labels
        return embeddings + blocks + 2 * width + heads

    @property
    def macs(self) -> int:
        """Multiply-accumulates to compute the features of one image, as MMPretrain's model tables count them.

        Each multiplication of the patch projection, the dense layers and both attention products counts once, each
        element of a LayerNorm five times. Those tables leave out the heads (at most 0.1%).
        """
        width, tokens = self.hidden_size, self.num_tokens
        projection = self.num_patches * self.patch_hw[0] * self.patch_hw[1] * self.num_channels * width
        dense = tokens * width * (4 * width + 2 * self.intermediate_size)
        attention = 2 * tokens * tokens * width
        norms = (2 * self.num_hidden_layers + 1) * 5 * tokens * width
        return projection + self.num_hidden_layers * (dense + attention) + norms

    # Copies and files.

    def replace(self, **changes: Any) -> "ViTConfig":
        """Returns a validated copy with `changes`; `num_labels` or `id2label` replaces the other label fields too."""
        if {"num_labels", "id2label"} & set(changes):
            changes = {"num_labels": None, "id2label": None, "label2id": None} | changes
        if "hidden_size" in changes and self.pooler_output_size == self.hidden_size:
            changes = {"pooler_output_size": None} | changes
        self.check_names(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the contents of config.json, `extra` included, ready for JSON; `id2label` implies `num_labels`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        fields |= {name: list(v) for name, v in fields.items() if isinstance(v, tuple)}
        fields["id2label"] = {str(index): name for index, name in self.id2label.items()}
        fields["label2id"] = dict(self.label2id)
        del fields["num_labels"]
        for name in ("layerscale_value", "no_embed_class", "uniform_drop_path"):
            if fields[name] in (None, False):  # written only where used, as transformers does not know them
                del fields[name]
        return {**self.extra, "model_type": self.model_type, **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """Builds the config from the contents of a config.json.

        Raises:
            ValueError: if the model type is another, or a field is invalid.
        """
        model_type = values.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"Expected a config of model_type {cls.model_type!r} for {cls.__name__}. Received: {model_type!r}."
            )
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        fields = {name: value for name, value in values.items() if name in known}
        if fields.get("id2label") is not None:
            fields.pop("num_labels", None)  # old files hold both, and id2label has the labels
        extra = {name: value for name, value in values.items() if name not in known and name != "model_type"}
        return cls(**fields, extra=extra)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **changes: Any) -> "ViTConfig":
        """Reads `source`, a config.json or a directory that holds one, and applies `changes`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON, or a field is invalid.
        """
        return cls.from_dict(read_config(source)).replace(**changes)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes `directory`/config.json, creating the directory."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        (Path(directory) / "config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def check_names(cls, changes: Iterable[str]) -> None:
        """Raises ValueError for the first of `changes` that is not a field, suggesting a similar one."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                hint = did_you_mean(name, known) or f" The fields are: {', '.join(known)}."
                raise ValueError(f"Expected a field of {cls.__name__}. Received: {name!r}.{hint}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """Architecture and labels of a distilled DeiT (Touvron et al. 2021, arXiv:2012.12877): a ViT with a second token.

    Fields are those of `ViTConfig`. DeiT checkpoints that were trained without distillation are ViT checkpoints.
    """

    model_type: ClassVar[str] = "deit"
    num_prefix_tokens: ClassVar[int] = 2  # [CLS], [DIST]


CONFIG_CLASSES = {cls.model_type: cls for cls in (ViTConfig, DeiTConfig)}


def read_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the JSON object in `source`, a file or a directory that holds a config.json.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its contents are not a JSON object.
    """
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file {path.name} in {path.parent}. Received: no such file.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a JSON object in {path}. Received: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object in {path}. Received: a {type(values).__name__}.")
    return values


def _check(ok: bool, name: str, expected: str, received: Any) -> None:
    if not ok:
        raise ValueError(f"Expected {name} to be {expected}. Received: {name}={received!r}.")


def _is_positive_int(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, tuple) else (value, value)
    return len(sides) == 2 and all(map(_is_positive_int, sides))


_FIELD_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (  # fields, test, what is expected
    (("hidden_size", "num_attention_heads", "intermediate_size"), _is_positive_int, "a positive int"),
    (("num_channels", "encoder_stride", "pooler_output_size"), _is_positive_int, "a positive int"),
    (("num_hidden_layers",), lambda depth: type(depth) is int and depth >= 0, "an int of at least 0"),
    (("image_size", "patch_size"), _is_size, "a positive int or a pair (height, width) of them"),
    (
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"),
        lambda rate: isinstance(rate, (int, float)) and 0 <= rate < 1,
        "a rate in [0, 1)",
    ),
    (("layer_norm_eps",), lambda epsilon: epsilon > 0, "a positive number"),
    (("layerscale_value",), lambda scale: scale is None or isinstance(scale, (int, float)), "a number or None"),
    (("no_embed_class", "uniform_drop_path"), lambda value: isinstance(value, bool), "True or False"),
    (("initializer_range",), lambda deviation: deviation >= 0, "a number of at least 0"),
    (("hidden_act", "pooler_act"), ACTIVATIONS.__contains__, f"one of {', '.join(ACTIVATIONS)}"),
    (
        ("attn_implementation",),
        ATTENTION_IMPLEMENTATIONS.__contains__,
        f"one of {', '.join(ATTENTION_IMPLEMENTATIONS)}",
    ),
)
