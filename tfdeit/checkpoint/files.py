"""Loads models from Hugging Face directories, and saves them: all of a checkpoint fits, or nothing is loaded."""

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import keras

from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.fit import CLASSIFIERS, OPTIONAL, Fit, compare, describe_problems, parts
from tfdeit.checkpoint.hub import locate
from tfdeit.checkpoint.port import port
from tfdeit.checkpoint.readers import read_weights
from tfdeit.checkpoint.rules import Rule, cast_finite, from_keras, hugging_face, interpolate_positions, to_keras
from tfdeit.checkpoint.writers import write_directory
from tfdeit.config import ViTConfig, read_config


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

    As in transformers, the heads (classifiers, pooler, decoder, mask token) may differ between file and model; one
    warning lists what is newly initialised or unused.

    Args:
        model_class: one of the classes of `tfdeit.network.models`.
        source: what `find_directory` takes: a directory that holds config.json and weights (`readers.read_weights`),
            or a name.
        dtype: dtype policy of the model ("bfloat16", "mixed_float16", ...), whatever the file's; None means Keras'
            global policy, float32 unless set.
        ignore_mismatched_sizes: whether variables of another shape in the file are newly initialised, not refused.
        model_options: further arguments of `model_class`.
        **overrides: fields of the config to change. With `image_size`, the position table is interpolated as by torch's
            bicubic; with `num_labels` or `id2label`, a classifier of another size is newly initialised.

    Returns:
        The model.

    Raises:
        CheckpointError: if the directory is not found or damaged, or its weights do not fit; one message lists all.
        ValueError: if an override is invalid.
    """
    directory = find_directory(source)
    stored = _read_config(model_class, directory)
    config = stored.replace(**overrides)
    arrays = read_weights(directory)
    model = model_class.with_zero_kernels(config, dtype=dtype, **model_options)
    variables = named_variables(model)
    rules = hugging_face(config, _prefix(config, "/", variables), _prefix(config, ".", arrays))

    relabelled = overrides.keys() & {"num_labels", "id2label"}
    resizable = {name for name in variables if ignore_mismatched_sizes or (relabelled and parts(name) & CLASSIFIERS)}
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    positions = next(name for name in variables if "position_embeddings" in parts(name))
    shapes[positions] = (1, stored.num_prefix_positions + stored.num_patches, config.hidden_size)  # as stored
    fit = compare(shapes, arrays, rules, _own_rules(model), resizable, OPTIONAL)
    if any(fit.problems.values()):
        raise CheckpointError(_describe_problems(fit, model_class, directory))

    for name, value in to_keras({name: rules[name] for name in fit.loaded}, arrays):
        if name == positions and stored.grid != config.grid:
            value = interpolate_positions(value, stored, config)
        where = f"{listing(rules[name].names)} in {directory}"
        variables[name].assign(cast_finite(value, variables[name].dtype, where))
    for name in variables.keys() - set(fit.loaded):
        if name.endswith("/kernel"):
            variables[name].assign(model.normal_initializer()(variables[name].shape, variables[name].dtype))
    if fit.initialised or fit.unused:
        warnings.warn(_describe_differences(fit, model_class, directory), stacklevel=3)
    return model


def save_pretrained(model: keras.Model, directory: str | os.PathLike, *, dtype: str | None = None):
    """Writes config.json and model.safetensors with the hub's tensor names, so that transformers loads them.

    transformers' ViT and DeiT have neither LayerScale nor a position table without class token: models with these
    (DeiT III) load in this library only. Files are written under temporary names first, so none is ever incomplete.

    Args:
        model: one of the models of `tfdeit.network.models`.
        directory: created if it does not exist.
        dtype: how to store the weights, "float32", "float16" or "bfloat16"; None keeps the dtype of the variables.

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
            tensors[name] = cast_finite(tensor, dtype or variable.dtype, name)
    config = model.config.to_dict() | {"architectures": [type(model).__name__.removeprefix("TF")]}
    write_directory(directory, config, tensors)


def find_directory(source: str | os.PathLike) -> Path:
    """Returns the directory that `source` names, as `hub.locate` finds it; ports a publisher's file once, beside it.

    Raises:
        CheckpointError: if there is none, or it cannot be downloaded or ported.
    """
    path = locate(source)
    if path.is_dir():
        return path
    if Path(source).exists():
        raise CheckpointError(
            f"Expected the directory of a checkpoint. Received: the file {source}; pass its directory, or port the "
            f"file first: tfdeit port {source} -o DIRECTORY."
        )
    directory = path.with_name(f"{path.name}.ported")
    if not (directory / "config.json").is_file():
        port(path, directory, name=str(source))
    return directory


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the model's variables by their path below the model's own name, such as "vit/block_0/norm1/gamma"."""
    return {variable.path.removeprefix(f"{model.name}/"): variable for variable in model.weights}


# ---------------------------------------------------------------------------------------------------- helpers


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
            hint = "Use a class for that type."
        case _:
            hint = "Only models of type vit and deit are supported."
    raise CheckpointError(
        f"Expected model_type {expected!r} in {path}, for {model_class.__name__}. "
        f"Received: {values['model_type']!r}. {hint}"
    )


def _prefix(config: ViTConfig, separator: str, names: Iterable[str]) -> str:
    """Returns the prefix of the backbone in `names`, empty for a bare model."""
    prefix = config.model_type + separator
    return prefix if any(name.startswith(prefix) for name in names) else ""


def _own_rules(model: keras.Model) -> dict[str, Rule]:
    """Returns the rules of the names under which the model itself is saved."""
    prefix = _prefix(model.config, "/", named_variables(model))
    return hugging_face(model.config, prefix, prefix.replace("/", "."))


def _describe_problems(fit: Fit, model_class: type[keras.Model], directory: Path) -> str:
    return (
        f"Expected {directory} to hold the weights of a {model_class.__name__} as its config.json describes it. "
        f"Nothing was loaded. Received tensors that are\n{describe_problems(fit.problems)}\n"
        "Check that config.json belongs to the weights. For another number of classes pass num_labels, for another "
        "resolution image_size; ignore_mismatched_sizes=True newly initialises whatever has another shape."
    )


def _describe_differences(fit: Fit, model_class: type[keras.Model], directory: Path) -> str:
    message = f"{model_class.__name__} from {directory}:"
    if fit.initialised:
        message += f" newly initialised: {listing(fit.initialised)}; train these before use."
    if fit.unused:
        message += f" unused: {listing(fit.unused)}."
    return message
