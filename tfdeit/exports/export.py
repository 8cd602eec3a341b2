"""Export of a classifier: written, loaded again in the format's own runtime, compared, and only then kept."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit.backbone import PretrainedModel
from tfdeit.base_processor import BaseImageProcessor
from tfdeit.exports import check_choice, implementation
from tfdeit.exports.comparison import BATCHES, compare, generate_images, latency_ratio, reference, tolerance
from tfdeit.exports.readme import write_side_files
from tfdeit.models import check_exportable


class Report(NamedTuple):
    """What an export was found to be.

    Attributes:
        format: of `exports.FORMATS`.
        dtype: of the weights.
        bytes: that the network takes on disk.
        images: how many were compared.
        max_difference: of any logit, to TensorFlow in float32.
        relative_error: of the worst image, see `comparison.compare`.
        tolerance: what `relative_error` may be.
        top1_agreement: part of the images with the same most probable class.
        latency_batch1: time for one image, divided by TensorFlow's in float32.
        latency_batch8: the same for eight.
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
    """The export does not answer as the model does; nothing was kept. `report` says how much it differs."""

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
        step: called with what is being done.
        **options: `calibration`, pixel values (N, H, W, C), for openvino in int8; `top_k` for savedmodel.

    Returns:
        The report.

    Raises:
        ValueError: if there is no such export, or the model or directory is unsuitable.
        ModuleNotFoundError: if a library is not installed.
        DifferentError: if the difference passes `comparison.tolerance`; `directory` is then as it was.
    """
    check_choice(format, dtype)
    _check_options(format, dtype, options)
    _check_model(model)
    images = generate_images(processor) if images is None else images
    shape = (*model.config.image_hw, model.config.num_channels)
    if images.shape[1:] != shape:
        raise ValueError(
            f"Expected images of shape {shape}, as the model takes and its image processor returns. "
            f"Received: {images.shape[1:]}."
        )
    module = implementation(format)
    with staged(Path(directory).absolute(), versions=format == "savedmodel") as stage:
        step(f"converting to {format}")
        module.write(model, processor, stage, dtype, **{"calibration": None, **options})
        size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        if format != "savedmodel":
            write_side_files(model, processor, stage, format, dtype)
        step("comparing with TensorFlow")
        ours, exported = reference(model), module.load(stage, dtype)
        values: dict[str, Any] = {"bytes": size, "images": len(images), "tolerance": tolerance(model.config, dtype)}
        values |= {"format": format, "dtype": dtype, **compare(ours, exported, images)}
        batches = {count: np.resize(images, (count, *images.shape[1:])) for count in BATCHES}
        if not values["relative_error"] <= values["tolerance"]:  # so that NaN fails
            raise DifferentError(Report(**values, latency_batch1=np.nan, latency_batch8=np.nan))
        step("measuring the time")
        values |= {f"latency_batch{count}": latency_ratio(ours, exported, batch) for count, batch in batches.items()}
    return Report(**values)


@contextmanager
def staged(directory: Path, versions: bool = False) -> Iterator[Path]:
    """Gives a directory of the same name to write to, and moves it to `directory` in the end, if nothing is raised.

    Args:
        directory: where to; new or empty.
        versions: whether what is written is a numbered version and files beside it, and `directory` may hold others.

    Raises:
        ValueError: if `directory` is occupied.
    """
    present = []
    if directory.is_dir():
        present = sorted(path.name for path in directory.iterdir())
    elif directory.exists():
        raise ValueError(f"Expected a directory to write to. Received: the file {directory}.")
    numbers = [int(name) for name in present if versions and name.isdecimal()]
    if present and not numbers:
        raise ValueError(
            f"Expected a new or empty directory. Received: {directory}, which holds {', '.join(present[:5])}. "
            "Choose another, or remove it first."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    existed = directory.is_dir()
    # Inside one that exists: it may be a mount point or a link, which nothing can replace and nothing be moved to.
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
    allowed = {"savedmodel": {"top_k"}, "openvino": {"calibration"} if dtype == "int8" else set()}
    wrong = options.keys() - allowed.get(name, set())
    if wrong:
        raise ValueError(
            "Expected top_k with format savedmodel only, and calibration with format openvino in int8 only. "
            f"Received: {', '.join(sorted(wrong))} with format {name} in {dtype}."
        )


def _check_model(model: PretrainedModel) -> None:
    check_exportable(model)
    if model.dtype_policy.name != "float32":
        raise ValueError(f"Expected a model in float32, to compare with. Received: {model.dtype_policy.name}.")
