"""Parity: compares a ported checkpoint, block by block, with the implementation that its source was made for."""

import datetime
import importlib
import importlib.metadata
import json
import os
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import port
from tfdeit.checkpoint.source import Source, checksums
from tfdeit.config import ViTConfig
from tfdeit.network import backbone, models

TOLERANCE = 1e-4
_WITHOUT_SHAPE = ("num_attention_heads", "layer_norm_eps", "hidden_act", "image_size")
_BATCH = 2


class Answer(NamedTuple):
    """What a model computes.

    Attributes:
        blocks: the tokens after each block, (B, T, D).
        final: logits (B, C); for a model without a head, the normalised tokens (B, T, D); for one that reconstructs,
            pixels (B, H, W, C).
    """

    blocks: list[np.ndarray]
    final: np.ndarray


class NoOracle(RuntimeError):
    """The original implementation is not installed, or there is none to run."""


def verify(source: Source, output: str | os.PathLike[str]) -> dict[str, Any]:
    """Compares a ported checkpoint with the original implementation on random images.

    Args:
        source: what `checkpoint.port.port` returned.
        output: what it wrote.

    Returns:
        The report: the largest absolute difference in each block and in the logits, whether all are within
        `TOLERANCE`, versions and checksums.

    Raises:
        NoOracle: if the original implementation cannot be imported, or none is known.
        CheckpointError: if `output` cannot be read.
    """
    if (source.config.grid, source.config.num_labels) != (source.stored.grid, source.stored.num_labels):
        raise NoOracle("Expected a checkpoint of the source's image size and labels. Received: one that was changed.")
    if source.format not in _ORACLES:
        raise NoOracle(f"Expected a source in one of the formats {', '.join(_ORACLES)}. Received: {source.format}.")
    oracle, package = _ORACLES[source.format]
    shape = (_BATCH, *source.config.image_hw, source.config.num_channels)
    pixel_values = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected, received = oracle(source, pixel_values), _own_answer(source, Path(output), pixel_values)
    differences = {
        f"block {i}": _difference(a, b) for i, (a, b) in enumerate(zip(received.blocks, expected.blocks, strict=True))
    }
    last = {2: "logits", 3: "tokens", 4: "reconstruction"}[received.final.ndim]
    differences[last] = _difference(received.final, expected.final)
    names = ("tfdeit", "keras", "numpy", "torch", package)
    return {
        "passed": max(differences.values()) <= TOLERANCE,
        "tolerance": TOLERANCE,
        "oracle": package,
        "images": list(shape),
        "source": {"path": source.path.name, "format": source.format, "sha256": checksums(source.path)},
        "output": {"path": Path(output).name, "sha256": checksums(Path(output))},
        "versions": {name: importlib.metadata.version(name) for name in names},
        "backend": keras.backend.backend(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "max_abs_difference": differences,
    }


def write_report(report: Mapping[str, Any], output: str | os.PathLike[str]) -> Path:
    """Writes parity.json and parity.md into the directory `output`, or beside that file; returns the latter's path."""
    output = Path(output)
    stem = output / "parity" if output.is_dir() else output.with_name(f"{output.name}.parity")
    Path(f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Path(f"{stem}.md").write_text(table(report), encoding="utf-8")
    return Path(f"{stem}.md")


def table(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown."""
    verdict = "equal" if report["passed"] else "NOT equal"
    rows = [f"| {name} | {value:.2e} |" for name, value in report["max_abs_difference"].items()]
    files = [
        f"- {side}: {name}, sha256 {checksum}"
        for side in ("source", "output")
        for name, checksum in report[side]["sha256"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join(
        [
            f"{report['output']['path']} is {verdict} to {report['source']['path']} in {report['oracle']}, within "
            f"{report['tolerance']:g}.",
            "",
            "| output of | largest difference |",
            "|---|---|",
            *rows,
            "",
            *files,
            f"- {versions}; Keras on {report['backend']}; random images {report['images']}; {report['date']}",
            "",
        ]
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())  # raises if the shapes differ


def _own_answer(source: Source, output: Path, pixel_values: np.ndarray) -> Answer:
    """Runs our model on the weights in `output`, which are converted to the hub's format first if need be."""
    model_class = getattr(models, f"TF{source.architecture}", None) or getattr(backbone, f"TF{source.architecture}")
    with tempfile.TemporaryDirectory() as directory:
        if not output.is_dir():
            port(output, directory, **{name: getattr(source.config, name) for name in _WITHOUT_SHAPE})
            output = Path(directory)
        bare = source.architecture.endswith("Model")
        options = {"add_pooling_layer": "pooler/kernel" in source.variables} if bare else {}
        model = model_class.from_pretrained(output, **options)
    outputs = model(pixel_values, output_hidden_states=True, training=False)
    blocks = [np.asarray(keras.ops.convert_to_numpy(tokens)) for tokens in outputs.hidden_states[1:]]
    return Answer(blocks, keras.ops.convert_to_numpy(outputs[0]))


# ------------------------------------------------------------------------------------------------------ oracles


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:  # torchvision breaks in all these ways
        raise NoOracle(f"Expected {name} to be installed, to compare with. Received: {error}.") from error


def _load_tensors(torch: types.ModuleType, path: Path) -> dict[str, Any]:
    """Reads a state dict with its own framework, not with our readers."""
    if path.suffix == ".safetensors":
        values = _import("safetensors.torch").load_file(path)
    else:
        values = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("model", "state_dict"):
        values = values.get(wrapper, values)
    return {name: tensor.float() for name, tensor in values.items()}


def _channels_first(torch: types.ModuleType, pixel_values: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(pixel_values.transpose(0, 3, 1, 2)))


def _transformers_answer(source: Source, pixel_values: np.ndarray) -> Answer:
    """Runs transformers' model on the source, as transformers loads it; none of its parameters may be missing."""
    torch, transformers = _import("torch"), _import("transformers")
    model_class = getattr(transformers, source.architecture)
    options = {"output_loading_info": True, "dtype": torch.float32}
    if source.architecture.endswith("Model"):
        options["add_pooling_layer"] = "pooler/kernel" in source.variables
    if source.path.is_dir():
        model, info = model_class.from_pretrained(source.path, **options)
    else:
        config = model_class.config_class.from_dict(source.config.to_dict())
        tensors = _load_tensors(torch, source.path)
        model, info = model_class.from_pretrained(None, config=config, state_dict=tensors, **options)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise CheckpointError(f"Expected transformers to load all of {source.path}. Received: {info}.")
    with torch.no_grad():
        outputs = model.eval()(_channels_first(torch, pixel_values), output_hidden_states=True)
    final = next(iter(outputs.values())).numpy()
    blocks = [tokens.numpy() for tokens in outputs.hidden_states[1:]]
    return Answer(blocks, final.transpose(0, 2, 3, 1) if final.ndim == 4 else final)


def timm_model(config: ViTConfig, no_embed_class: bool) -> Any:
    """Builds timm's model for a config, with random weights.

    Args:
        config: the config.
        no_embed_class: whether prefix tokens get no position; also true of a table whose rows for them are zero.

    Raises:
        NoOracle: if timm cannot be imported.
    """
    timm = _import("timm.models")
    distilled = config.model_type == "deit"
    model_class = timm.deit.VisionTransformerDistilled if distilled else timm.VisionTransformer
    return model_class(
        img_size=config.image_hw,
        patch_size=config.patch_hw,
        in_chans=config.num_channels,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        qkv_bias=config.qkv_bias,
        num_classes=config.num_labels,
        init_values=config.layerscale_value,
        no_embed_class=no_embed_class,
    )


def _timm_answer(source: Source, pixel_values: np.ndarray) -> Answer:
    """Runs timm's model on the source file: a state dict loaded strictly, or Google's npz with timm's own loader."""
    torch, config = _import("torch"), source.config
    model = timm_model(config, no_embed_class=config.no_embed_class or source.format == "Big Vision npz")
    if source.format == "timm":
        model.load_state_dict(_load_tensors(torch, source.path))
    else:
        try:
            model.load_pretrained(str(source.path))
        except KeyError as error:  # stacked blocks, which older versions do not read
            raise NoOracle(f"Expected a file that timm reads. Received: {source.path}, without {error}.") from error
    blocks: list[np.ndarray] = []
    for block in model.blocks:
        block.register_forward_hook(lambda block, inputs, tokens: blocks.append(tokens.numpy()))
    with torch.no_grad():
        run = model.eval() if config.num_labels else model.eval().forward_features
        final = run(_channels_first(torch, pixel_values)).numpy()
    return Answer(blocks, final)


_ORACLES = {
    "Hugging Face": (_transformers_answer, "transformers"),
    "Hugging Face in memory": (_transformers_answer, "transformers"),
    "timm": (_timm_answer, "timm"),
    "Google npz": (_timm_answer, "timm"),
    "Big Vision npz": (_timm_answer, "timm"),
}
