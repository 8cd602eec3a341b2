"""Models from and to Hugging Face directories: all of a checkpoint fits, or nothing is loaded."""

import importlib.resources
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import safetensors.numpy

from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.hub import fetch
from tfdeit.checkpoint.readers import Array, read_weights
from tfdeit.checkpoint.rules import TOKEN, Rule, expand, from_keras, hugging_face, to_keras
from tfdeit.config import ViTConfig, read_config
from tfdeit.resample import resize_positions

CLASSIFIERS = {"classifier", "cls_classifier", "distillation_classifier"}
# The parts that a model may have and a file lack, or the reverse: where transformers' models of one backbone differ.
OPTIONAL = CLASSIFIERS | {"pooler", "decoder", "mask_token"}

# LayerScale has no names in transformers' ViT: these are those of its DINOv2, whose blocks have the same names.
LAYER_SCALES = [
    (TOKEN, f"block_{{i}}/layer_scale{number}", f"encoder.layer.{{i}}.layer_scale{number}.lambda1") for number in (1, 2)
]


def load_pretrained(
    model_class: type[keras.Model],
    source: str | os.PathLike,
    *,
    dtype: str | keras.dtype_policies.DTypePolicy | None = None,
    ignore_mismatched_sizes: bool = False,
    model_options: Mapping = MappingProxyType({}),
    **overrides,
) -> keras.Model:
    """Builds a model and reads its weights from a directory in Hugging Face format.

    As in transformers, the heads (classifiers, pooler, decoder, mask token) may differ between file and model; what is
    newly initialised or unused is said in one warning.

    Args:
        model_class: one of the classes of `tfdeit.models`.
        source: what `find_directory` takes: a directory that holds config.json and weights (`readers.read_weights`),
            or a name.
        dtype: dtype policy of the model ("bfloat16", "mixed_float16", ...), whatever the file's; None means Keras'
            global policy, float32 unless set.
        ignore_mismatched_sizes: whether variables of another shape in the file are newly initialised, not an error.
        model_options: further arguments of the class.
        **overrides: fields of the config. With `image_size`, the position table is interpolated as torch's bicubic;
            with `num_labels` or `id2label`, a classifier of another size is newly initialised.

    Returns:
        The model.

    Raises:
        CheckpointError: if the directory is not found or damaged, or its weights do not fit: one message lists all.
        ValueError: if an override is invalid.
    """
    directory = find_directory(source)
    stored = _read_config(model_class, directory)
    config = stored.replace(**overrides)
    arrays = read_weights(directory)
    model = model_class(config, dtype=dtype, **model_options)
    variables = named_variables(model)
    rules = _rules(config, _prefix(config, "/", variables), _prefix(config, ".", arrays))

    relabelled = overrides.keys() & {"num_labels", "id2label"}
    resizable = {name for name in variables if ignore_mismatched_sizes or (relabelled and _parts(name) & CLASSIFIERS)}
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    positions = next(name for name in variables if "position_embeddings" in _parts(name))
    shapes[positions] = (1, stored.num_prefix_positions + stored.num_patches, config.hidden_size)  # as stored
    fit = _compare(shapes, arrays, rules, _own_rules(model), resizable)
    if any(fit.problems.values()):
        raise CheckpointError(_describe_problems(fit, model_class, directory))

    for name, value in to_keras({name: rules[name] for name in fit.loaded}, arrays):
        if name == positions and stored.grid != config.grid:
            value = _interpolate_positions(value, stored, config)
        where = f"{listing(rules[name].names)} in {directory}"
        variables[name].assign(_cast(value, variables[name].dtype, where))
    if fit.initialised or fit.unused:
        warnings.warn(_describe_differences(fit, model_class, directory), stacklevel=3)
    return model


def save_pretrained(model: keras.Model, directory: str | os.PathLike, *, dtype: str | None = None):
    """Writes config.json and model.safetensors under the names of the hub, so that transformers loads them.

    transformers' ViT and DeiT have neither LayerScale nor a position table without class token: models with these
    (DeiT III) are for this library only, the former under the names `LAYER_SCALES`.

    Each file is complete or not there: both are written under temporary names first.

    Args:
        model: one of the models of `tfdeit.models`.
        directory: made if it does not exist.
        dtype: "float32", "float16" or "bfloat16", how the weights are stored; None means as the variables are.

    Raises:
        CheckpointError: if `directory` is a file, or a weight is not finite (in `dtype`).
        ValueError: for any other `dtype`.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"Expected a directory to save to. Received: the file {directory}. Name a directory.")
    if dtype not in (None, "float32", "float16", "bfloat16"):
        raise ValueError(f"Expected dtype to be float32, float16 or bfloat16. Received: {dtype!r}.")
    tensors, rules = {}, _own_rules(model)
    for ours, variable in named_variables(model).items():
        for name, tensor in from_keras(rules, {ours: variable.numpy()}):
            tensors[name] = np.ascontiguousarray(_cast(tensor, dtype or variable.dtype, name))
    config = model.config.to_dict()
    config.pop("torch_dtype", None)  # the same in files of transformers before 5
    config["architectures"] = [type(model).__name__.removeprefix("TF")]
    config["dtype"] = max(tensors.values(), key=lambda tensor: tensor.size).dtype.name
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as temporary:
        config_file, weights_file = Path(temporary, "config.json"), Path(temporary, "model.safetensors")
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        safetensors.numpy.save_file(tensors, weights_file, metadata={"format": "pt"})
        shutil.copymode(config_file, weights_file)  # safetensors lets nobody but the owner read
        for file in (weights_file, config_file):
            os.replace(file, directory / file.name)


def find_directory(source: str | os.PathLike) -> Path:
    """Returns the directory that `source` names: a path; or the name of an embedded checkpoint; or one to download.

    Raises:
        CheckpointError: if there is none, or it cannot be downloaded.
    """
    if Path(source).is_dir():
        return Path(source)
    folder = Path(str(importlib.resources.files("tfdeit.weights")))
    embedded = {path.parent.name: path.parent for path in folder.glob("*/config.json")}
    if str(source) in embedded:
        return embedded[str(source)]
    if Path(source).is_file():
        raise CheckpointError(
            f"Expected the directory of a checkpoint. Received: the file {source}; pass its directory."
        )
    try:
        path = fetch(str(source))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            "Expected the directory of a checkpoint (config.json with model.safetensors or pytorch_model.bin, "
            f"preprocessor_config.json), the name of an embedded one ({listing(embedded) or 'there is none'}), "
            f"of the zoo, or the id of a repository on the hub. Received: {source!r}. {error}"
        ) from error
    if path.is_dir():
        return path
    raise CheckpointError(
        f"Expected a checkpoint in the format of the hub. Received: {source!r}, which is published in another, that is "
        f"not read yet. Its file is at {path}."
    )


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the model's variables by their path below the model's own name, such as "vit/block_0/norm1/gamma"."""
    return {variable.path.removeprefix(f"{model.name}/"): variable for variable in model.weights}


# ---------------------------------------------------------------------------------------------------- helpers


class _Fit(NamedTuple):
    loaded: list[str]  # names of our variables
    initialised: list[str]  # names of tensors, as are the next
    unused: list[str]
    problems: dict[str, list[str]]


def _read_config(model_class: type[keras.Model], directory: Path) -> ViTConfig:
    path = directory / "config.json"
    if not path.is_file():
        present = listing(file.name for file in directory.iterdir())
        raise CheckpointError(f"Expected a config.json in {directory}. Received: {present or 'nothing'}.")
    try:
        values, expected = read_config(path), model_class.config_class.model_type
        if values.get("model_type", expected) == expected:
            return model_class.config_class.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    match values:
        case {"model_type": "vit" | "deit", "architectures": [str(name), *_]}:
            hint = f"Use TF{name}."
        case {"model_type": "vit" | "deit"}:
            hint = "Use a class of that type."
        case _:
            hint = "Only models of type vit and deit are read."
    raise CheckpointError(
        f"Expected model_type {expected!r} in {path}, for {model_class.__name__}. "
        f"Received: {values['model_type']!r}. {hint}"
    )


def _parts(name: str) -> set[str]:
    return set(name.split("/"))


def _prefix(config: ViTConfig, separator: str, names: Iterable[str]) -> str:
    """Returns what precedes the backbone in `names`, nothing in those of a bare model."""
    prefix = config.model_type + separator
    return prefix if any(name.startswith(prefix) for name in names) else ""


def _own_rules(model: keras.Model) -> dict[str, Rule]:
    """Returns the rules of the names under which the model itself is saved."""
    prefix = _prefix(model.config, "/", named_variables(model))
    return _rules(model.config, prefix, prefix.replace("/", "."))


def _rules(config: ViTConfig, ours: str, theirs: str) -> dict[str, Rule]:
    return hugging_face(config, ours, theirs) | expand(LAYER_SCALES, config.num_hidden_layers, ours, theirs)


def _compare(
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, Array],
    rules: Mapping[str, Rule],
    own_rules: Mapping[str, Rule],
    resizable: Set[str],
) -> _Fit:
    """Compares names, shapes and dtypes of a model and a checkpoint, without reading any values.

    Args:
        shapes: of the model's variables, as the checkpoint should have them.
        arrays: the checkpoint.
        rules: where the variables are in the checkpoint.
        own_rules: where they would be in the model's own checkpoint, which names what the checkpoint lacks.
        resizable: variables that may have another shape in the checkpoint: they are not loaded then.
    """
    fit = _Fit([], [], [], {"missing": [], "unexpected": [], "misshapen": [], "not floating-point": []})
    expected = set()
    for ours, shape in shapes.items():
        theirs = dict(from_keras(rules, {ours: np.broadcast_to(np.float32(0), shape)}))
        expected |= theirs.keys()
        own_names = zip(theirs, own_rules[ours].names, strict=True)
        missing = [own_name for name, own_name in own_names if name not in arrays]
        misshapen = [
            f"{name} ({_format(arrays[name].shape)} instead of {_format(array.shape)})"
            for name, array in theirs.items()
            if name in arrays and arrays[name].shape != array.shape
        ]
        if not missing and not misshapen:
            fit.loaded.append(ours)
            floats = [name for name in theirs if keras.backend.is_float_dtype(arrays[name].dtype.name)]
            fit.problems["not floating-point"] += sorted(theirs.keys() - floats)
        elif _parts(ours) & OPTIONAL if missing else ours in resizable:
            fit.initialised.extend(missing or misshapen)
        else:
            fit.problems["missing"] += missing
            fit.problems["misshapen"] += misshapen
    optional = {name for ours, rule in rules.items() if _parts(ours) & OPTIONAL for name in rule.names}
    fit.unused.extend((arrays.keys() - expected) & optional)
    fit.problems["unexpected"] += arrays.keys() - expected - optional
    return fit


def _format(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _describe_problems(fit: _Fit, model_class: type[keras.Model], directory: Path) -> str:
    lines = [f"  {kind}: {listing(names)}" for kind, names in fit.problems.items() if names]
    return "\n".join(
        [
            f"Expected {directory} to hold the weights of a {model_class.__name__} as its config.json describes it. "
            "Nothing was loaded. Received tensors that are",
            *lines,
            "Check that config.json belongs to the weights. For another number of classes pass num_labels, for another "
            "resolution image_size; ignore_mismatched_sizes=True newly initialises whatever has another shape.",
        ]
    )


def _describe_differences(fit: _Fit, model_class: type[keras.Model], directory: Path) -> str:
    message = f"{model_class.__name__} from {directory}:"
    if fit.initialised:
        message += f" newly initialised: {listing(fit.initialised)}; train these before use."
    if fit.unused:
        message += f" unused: {listing(fit.unused)}."
    return message


def _interpolate_positions(table: np.ndarray, stored: ViTConfig, config: ViTConfig) -> np.ndarray:
    """Returns a position table (1, T, D) with its patches' part fitted to `config`'s grid."""
    prefix, patches = np.split(table[0], [stored.num_prefix_positions])
    patches = resize_positions(patches.reshape(*stored.grid, -1), config.grid, kernel="torch")
    return np.concatenate([prefix, patches.reshape(config.num_patches, -1)])[None]


def _cast(value: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Returns a copy of `value` as `dtype`, all of it finite."""
    with np.errstate(over="ignore"):
        value = value.astype(dtype)
    if not np.isfinite(value).all():
        raise CheckpointError(f"Expected finite values of {name} in {dtype}. Received: NaN or infinity.")
    return value
