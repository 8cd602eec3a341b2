"""Export of a classifier: written, loaded in the format's own runtime, compared with the model, and only then kept."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit.exports import FORMATS, check_choice, implementation
from tfdeit.exports.comparison import BATCHES, compare, generate_images, latency_ratio, reference, tolerance
from tfdeit.exports.readme import write_side_files
from tfdeit.network.backbone import PretrainedModel
from tfdeit.network.models import check_exportable
from tfdeit.preprocessing.base_processor import BaseImageProcessor


class Report(NamedTuple):
    """How an export compares with the model in TensorFlow, in float32.

    Attributes:
        format: one of `exports.FORMATS`.
        dtype: of the weights.
        bytes: size of the network on disk.
        images: how many images were compared.
        max_difference: the largest absolute difference of a logit.
        relative_error: of the worst image, see `comparison.compare`.
        tolerance: the largest `relative_error` allowed.
        top1_agreement: fraction of the images with the same most probable class.
        latency_batch1: time for one image, divided by TensorFlow's.
        latency_batch8: the same for a batch of eight.
    """

    format: str
    dtype: str
    bytes: int
    images: int
    max_difference: float
    relative_error: float
    tolerance: float
    top1_agreement: float
    latency_batch1: float
    latency_batch8: float


class DifferentError(RuntimeError):
    """The export differs from the model by more than rounding explains, and was not kept; `report` has the figures."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__(
            f"Expected {report.format} in {report.dtype} to differ from TensorFlow by a relative error of at most "
            f"{report.tolerance:.1e}, which rounding explains. Received: {report.relative_error:.1e}. Nothing was kept."
        )


def export_model(
    model: PretrainedModel,
    processor: BaseImageProcessor,
    directory: str | os.PathLike[str],
    *,
    format: str,
    dtype: str = "float32",
    images: np.ndarray | None = None,
    step: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Report:
    """Writes a classifier in another format, loads it in that format's runtime, and compares the two.

    Args:
        model: a classifier in float32, in TensorFlow.
        processor: its image processor.
        directory: new or empty; for savedmodel, also one with earlier versions.
        format: one of `exports.FORMATS`.
        dtype: one of the format's.
        images: pixel values (N, H, W, C) to compare on; None means generated patterns.
        step: called with a description of each step before it begins.
        **options: `calibration`, pixel values (N, H, W, C), for openvino in int8; `top_k` for savedmodel.

    Returns:
        How the export compares with the model.

    Raises:
        ValueError: if there is no such format, dtype or option, or the model or directory is unsuitable.
        ModuleNotFoundError: if a library is not installed.
        DifferentError: if the difference exceeds `comparison.tolerance`; `directory` is then left as it was.
    """
    check_choice(format, dtype)
    _check_options(format, dtype, options)
    images = generate_images(processor) if images is None else images
    _check_model(model, images)
    module = implementation(format)
    with staged(Path(directory).absolute(), FORMATS[format].versioned) as stage:
        step(f"converting to {format}")
        usage = module.write(model, processor, stage, dtype, **{"calibration": None, **options})
        size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        if usage:
            write_side_files(model, processor, stage, usage)
        step("comparing with TensorFlow")
        ours, exported = reference(model), module.load(stage, dtype)
        values: dict[str, Any] = {"format": format, "dtype": dtype, "bytes": size, "images": len(images)}
        values |= {"tolerance": tolerance(model.config, dtype), **compare(ours, exported, images)}
        if not values["relative_error"] <= values["tolerance"]:  # not `>`: NaN must fail
            raise DifferentError(Report(**values, latency_batch1=np.nan, latency_batch8=np.nan))
        step("measuring the time")
        for count in BATCHES:
            batch = np.resize(images, (count, *images.shape[1:]))
            values[f"latency_batch{count}"] = latency_ratio(ours, exported, batch)
    return Report(**values)


@contextmanager
def staged(directory: Path, versions: bool = False) -> Iterator[Path]:
    """Yields a temporary directory of the same name, and moves what was written to `directory` if nothing is raised.

    Args:
        directory: the destination, new or empty.
        versions: whether version 1 is written, with files beside it. `directory` may then hold earlier versions, and
            the new one gets the next number.

    Raises:
        ValueError: if `directory` is occupied.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"Expected a directory to write to. Received: the file {directory}.")
    existed = directory.is_dir()
    present = sorted(path.name for path in directory.iterdir()) if existed else []
    numbers = [int(name) for name in present if versions and name.isdecimal()]
    if present and not numbers:
        raise ValueError(
            f"Expected a new or empty directory. Received: {directory}, which holds {', '.join(present[:5])}. "
            "Choose another, or remove it first."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Inside a directory that exists: it may be a mount point or a link, which a rename can neither replace nor cross.
    with tempfile.TemporaryDirectory(dir=directory if existed else directory.parent, prefix=".exporting-") as temporary:
        stage = Path(temporary, directory.name)
        stage.mkdir()
        yield stage
        if not existed:
            os.replace(stage, directory)
            return
        if numbers:
            os.replace(stage / "1", directory / str(max(numbers) + 1))
        for path in list(stage.iterdir()):
            os.replace(path, directory / path.name)


def _check_options(name: str, dtype: str, options: Mapping[str, Any]) -> None:
    wrong = [option for option in options if dtype not in FORMATS[name].options.get(option, ())]
    if wrong:
        known = [
            f"{option} with format {other} ({', '.join(dtypes)})"
            for other, row in FORMATS.items()
            for option, dtypes in row.options.items()
        ]
        raise ValueError(
            f"Expected no options but {'; '.join(known)}. "
            f"Received: {', '.join(sorted(wrong))} with format {name} in {dtype}."
        )


def _check_model(model: PretrainedModel, images: np.ndarray) -> None:
    check_exportable(model)
    if model.dtype_policy.name != "float32":
        raise ValueError(
            f"Expected a model in float32, to compare with. Received: {model.dtype_policy.name}. "
            "Load it with dtype='float32'."
        )
    shape = (*model.config.image_hw, model.config.num_channels)
    if images.shape[1:] != shape:
        raise ValueError(
            f"Expected images of shape {shape}, as the model takes. Received: {images.shape[1:]}. "
            "Prepare them with the model's image processor."
        )
