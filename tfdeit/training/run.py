"""A whole run: from the names of data, model and teacher, and a recipe, to a directory with a trained model."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from tfdeit import zoo
from tfdeit.checkpoint.files import find_directory
from tfdeit.checkpoint.writers import complete_file
from tfdeit.config import CONFIG_CLASSES, ViTConfig, read_config
from tfdeit.data.loading import Loading, Pipeline
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.source import Source
from tfdeit.data.splits import open_splits
from tfdeit.labels import match_classes
from tfdeit.network.backbone import PretrainedModel
from tfdeit.network.models import (
    TFDeiTForImageClassification,
    TFDeiTForImageClassificationWithTeacher,
    TFDeiTForMaskedImageModeling,
    TFViTForImageClassification,
    TFViTForMaskedImageModeling,
)
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.processors import AutoImageProcessor, protocol_processor
from tfdeit.presentation.terminal import counted
from tfdeit.training.learner import Learner
from tfdeit.training.masked_images import MaskedImages, masked_pipeline, reconstruction_grid
from tfdeit.training.optimizer import make_optimizer
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.tasks import Classification, classification
from tfdeit.training.teacher import load_teacher
from tfdeit.training.trainer import Trainer
from tfdeit.training.workers import Workers, choose_strategy

HEADS = ("classifier", "cls_classifier", "distillation_classifier", "decoder")
_CLASSES = {
    ("vit", "classification", "both"): TFViTForImageClassification,
    ("vit", "classification", "class"): TFViTForImageClassification,
    ("deit", "classification", "both"): TFDeiTForImageClassificationWithTeacher,
    ("deit", "classification", "class"): TFDeiTForImageClassification,
    ("vit", "masked_image_modeling", "both"): TFViTForMaskedImageModeling,
    ("deit", "masked_image_modeling", "both"): TFDeiTForMaskedImageModeling,
}


class Run(NamedTuple):
    """What a run needs besides its recipe: the arguments of `tfdeit train`."""

    data: str
    model: str
    validation: str | None = None
    teacher: str | None = None
    teacher_pixels: str | None = None


def train(
    recipe: TrainRecipe, run: Run, directory: str | os.PathLike, resume: bool = False, say: Callable = print
) -> bool:
    """Trains a model and writes it, in Hugging Face format, to RUN/model, and with averaged weights to RUN/model_ema.

    Args:
        recipe: the recipe.
        run: data, model and teacher.
        directory: directory of the run, RUN; created if need be.
        resume: whether to continue from the last checkpoint in it, if there is one.
        say: called with a line of text about each decision on the way.

    Returns:
        Whether the end was reached; see `Trainer.fit`.

    Raises:
        ValueError, OSError: for options or data that cannot be used, before any training.
        Diverged: see `Trainer.fit`.
    """
    directory = Path(directory)
    if (directory / "recipe.toml").exists() and not resume:
        raise ValueError(
            f"Expected a new directory for the run. Received: {directory}, which already holds one. Continue that run "
            "with --resume, or choose another directory."
        )
    if recipe.task != "classification" and (run.teacher or recipe.heads != "both" or recipe.distillation != "none"):
        raise ValueError(
            "Expected heads=both, distillation=none and no teacher for masked image modelling. Received: "
            f"heads={recipe.heads}, distillation={recipe.distillation}, teacher={run.teacher}."
        )
    strategy = choose_strategy()
    workers = Workers(strategy)
    keras.utils.set_random_seed(recipe.seed)
    train_source, test_source, how = open_splits(run.data, run.validation)
    say(f"{how}; {counted(len(train_source.class_names), 'class')}")
    recipe = fitting_batch(recipe, len(train_source), strategy.num_replicas_in_sync, say)
    with strategy.scope():
        student = build_model(run.model, recipe, train_source.class_names, say)
        processor = find_processor(run.model, recipe, student.config)
        recipe = recipe.replace(mean=tuple(processor.image_mean), std=tuple(processor.image_std))
        pipelines = make_pipelines(recipe, train_source, test_source, processor, workers)
        task, train_data, test_data = make_task(recipe, run, student, *pipelines)
        learner = Learner(student, task, recipe.accumulation, recipe.clip, recipe.ema, recipe.jit)
        learner.compile(make_optimizer(recipe, student.config, train_data.steps_per_epoch))
    trainer = Trainer(learner, recipe, train_data, test_data, directory)
    if workers.chief:
        record(directory, recipe, run)
    size = f"{type(student).__name__}, {student.count_params() / 1e6:.1f} M parameters"
    steps, images = counted(trainer.total, "step"), counted(recipe.batch_size, "image")
    say(f"{run.model}: {size}; {steps} of {images}, {counted(recipe.epochs, 'epoch')}; peak lr {recipe.peak_lr:.3g}")
    finished = trainer.fit()
    if finished and workers.chief:
        write_models(trainer, processor, directory)
    for failure in train_data.failures + test_data.failures:
        say(f"skipped {failure.name}: {failure.reason}")
    return finished


def write_models(trainer: Trainer, processor: BaseImageProcessor, directory: Path):
    """Writes model/ and model_ema/, and for masked image modelling reconstruction.png, of images held out."""
    for name, averaged in {"model": False, "model_ema": True}.items():
        if trainer.learner.averages or not averaged:
            trainer.weights(averaged).save_pretrained(directory / name)
            processor.save_pretrained(directory / name)
    if trainer.recipe.task == "masked_image_modeling" and trainer.validation is not None:
        pixel_values, masks = (array[:8] for array in next(trainer.validation.dataset().as_numpy_iterator()))
        page = reconstruction_grid(trainer.model, pixel_values, masks, trainer.recipe.mean, trainer.recipe.std)
        page.save(directory / "reconstruction.png")


def fitting_batch(recipe: TrainRecipe, images: int, replicas: int, say: Callable) -> TrainRecipe:
    """Returns the recipe with a batch no larger than the data, divisible by the parts on all replicas."""
    unit = recipe.accumulation * replicas
    largest = images // unit * unit
    factors = f"(accumulation={recipe.accumulation} times {counted(replicas, 'device')})"
    if largest == 0:
        raise ValueError(
            f"Expected at least {counted(unit, 'image')} to train on {factors}. Received: {images}. Lower accumulation."
        )
    if recipe.batch_size % unit:
        raise ValueError(
            f"Expected batch_size to be a multiple of {unit} {factors}. Received: batch_size={recipe.batch_size}"
        )
    if recipe.batch_size > largest:
        say(f"batch_size={largest} instead of {recipe.batch_size}: there are only {counted(images, 'image')}")
        recipe = recipe.replace(batch_size=largest)
    return recipe


def build_model(name: str, recipe: TrainRecipe, class_names: list[str], say: Callable) -> PretrainedModel:
    """Returns the student of a recipe.

    Args:
        name: name of a model or a directory; only its architecture is used unless the recipe is `pretrained`.
        recipe: the recipe.
        class_names: names of the classes in the data.
        say: called with a line about weights that are newly initialised.
    """
    changes: dict[str, Any] = {"drop_path_rate": recipe.drop_path, "hidden_dropout_prob": recipe.dropout}
    if recipe.image_size:
        changes["image_size"] = recipe.image_size
    directory = find_directory(name) if recipe.pretrained or name not in zoo.BY_NAME else None
    config = _read_config(directory) if directory else zoo.find(name).config()
    if not _same_classes(class_names, config):
        changes["id2label"] = class_names
    if recipe.task == "masked_image_modeling":
        changes["encoder_stride"] = config.patch_hw[0]
    model_class = _CLASSES[config.model_type, recipe.task, recipe.heads]
    if directory and recipe.pretrained:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model = model_class.from_pretrained(directory, dtype=recipe.precision, **changes)
        for warning in caught:
            say(str(warning.message))
    else:
        model = model_class(config.replace(**changes), dtype=recipe.precision)
    model.gradient_checkpointing_enable(recipe.gradient_checkpointing)
    if recipe.trainable == "head":
        for layer in model.layers:
            layer.trainable = layer.name in HEADS
    return model


def _read_config(directory: Path) -> ViTConfig:
    values = read_config(directory)
    if values.get("model_type") not in CONFIG_CLASSES:
        raise ValueError(f"Expected a ViT or DeiT in {directory}. Received: model_type={values.get('model_type')!r}")
    return CONFIG_CLASSES[values["model_type"]].from_dict(values)


def _same_classes(class_names: list[str], config: ViTConfig) -> bool:
    """Whether the classes of a checkpoint's head are those of the data, in the same order."""
    if len(class_names) != config.num_labels:
        return False
    try:
        found, note = match_classes(class_names, config.id2label)
    except ValueError:
        return False
    return note is None and found == list(range(len(found)))


def find_processor(name: str, recipe: TrainRecipe, config: ViTConfig) -> BaseImageProcessor:
    """Returns a processor with the recipe's protocol; else the model's own, or Facebook's if it has none."""
    size, wanted = config.image_hw[0], recipe.protocol
    if not recipe.pretrained and name in zoo.BY_NAME:  # an architecture: nothing is downloaded
        return protocol_processor(wanted or zoo.find(name).protocol, size)
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except FileNotFoundError:
        return protocol_processor(wanted or "fb", size)
    return processor.with_protocol(wanted, size) if wanted else processor.for_size(size)


def make_pipelines(
    recipe: TrainRecipe, train_source: Source, test_source: Source, processor: BaseImageProcessor, workers: Workers
) -> tuple[Pipeline, Pipeline]:
    """Returns the training batches of this worker, and all batches to evaluate on."""
    loading = Loading(on_error=recipe.on_error)
    order = Order(recipe.seed, recipe.repeats, workers.rank, workers.count)
    size = (processor.crop_size if processor.do_center_crop else processor.size)["height"]
    batch = recipe.batch_size // workers.count
    mix = recipe.task == "classification"
    train_data = train_pipeline(train_source, batch, size, recipe, mix=mix, order=order, loading=loading)
    test_data = eval_pipeline(test_source, min(recipe.batch_size, 64), processor, loading=loading)
    return train_data, test_data


def make_task(
    recipe: TrainRecipe, run: Run, student: PretrainedModel, train_data: Pipeline, test_data: Pipeline
) -> tuple[Classification | MaskedImages, Pipeline, Pipeline]:
    """Returns the task of a recipe, and the pipelines with the labels that it takes."""
    if recipe.task == "classification":
        teacher = load_teacher(run.teacher, run.teacher_pixels, jit=recipe.jit) if run.teacher else None
        return classification(recipe, student, teacher), train_data, test_data
    sizes = student.config, recipe.mask_block, recipe.mask_ratio
    return MaskedImages(), masked_pipeline(train_data, *sizes), masked_pipeline(test_data, *sizes)


def record(directory: Path, recipe: TrainRecipe, run: Run):
    """Writes recipe.toml and arguments.json.

    Raises:
        ValueError: if the run is resumed, and those there differ.
    """
    arguments = json.dumps(run._asdict(), indent=2) + "\n"
    recipe_file, arguments_file = directory / "recipe.toml", directory / "arguments.json"
    if recipe_file.exists():
        differences = TrainRecipe.from_toml(recipe_file).differences(recipe)
        if arguments_file.exists() and arguments_file.read_text(encoding="utf-8") != arguments:
            differences.append(f"arguments: {arguments_file.read_text(encoding='utf-8')}")
        if differences:
            raise ValueError(
                f"Expected to resume {directory} with the options that it was started with. Received: "
                f"{'; '.join(differences)}. Leave these out, or start a new run."
            )
    for file, text in ((recipe_file, recipe.to_toml()), (arguments_file, arguments)):
        with complete_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
