"""A run from names: data, model, teacher and recipe to a trained model in a directory."""

import functools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from tfdeit import zoo
from tfdeit.backbone import PretrainedModel
from tfdeit.base_processor import BaseImageProcessor
from tfdeit.checkpoint.files import find_directory
from tfdeit.checkpoint.writers import complete_file
from tfdeit.config import CONFIG_CLASSES, ViTConfig, read_config
from tfdeit.data.loading import Loading, Pipeline
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.sources import Source
from tfdeit.data.splits import open_splits
from tfdeit.labels import match_classes
from tfdeit.models import (
    TFDeiTForImageClassification,
    TFDeiTForImageClassificationWithTeacher,
    TFDeiTForMaskedImageModeling,
    TFViTForImageClassification,
    TFViTForMaskedImageModeling,
)
from tfdeit.processing import AutoImageProcessor, protocol_processor
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
    """What a run is made of, besides its recipe: the arguments of `tfdeit train`."""

    data: str
    model: str
    validation: str | None = None
    teacher: str | None = None
    teacher_pixels: str | None = None


def train(
    recipe: TrainRecipe, run: Run, directory: str | os.PathLike, resume: bool = False, say: Callable = print
) -> bool:
    """Trains a model, and writes it: RUN/model, and RUN/model_ema with averaged weights, in the format of the hub.

    Args:
        recipe: the recipe.
        run: data, model and teacher.
        directory: of the run; made.
        resume: whether to go on from the last checkpoint in it, if there is one.
        say: called with a line of text for what is decided on the way.

    Returns:
        Whether the end was reached; see `Trainer.fit`.

    Raises:
        ValueError, OSError: for what cannot be, before anything is trained.
        Diverged: see `Trainer.fit`.
    """
    directory = Path(directory)
    if (directory / "recipe.toml").exists() and not resume:
        raise ValueError(
            f"Expected a new directory for the run. Received: {directory}, which holds one. Resume it (--resume), or "
            "name another."
        )
    if recipe.task != "classification" and (run.teacher or recipe.heads != "both" or recipe.distillation != "none"):
        raise ValueError("Expected no teacher, distillation or heads=class for masked image modelling. Received: one.")
    strategy = choose_strategy()
    workers = Workers(strategy)
    keras.utils.set_random_seed(recipe.seed)
    train_source, test_source, how = open_splits(run.data, run.validation)
    say(f"{how}; {len(train_source.class_names)} classes")
    recipe = fitting_batch(recipe, len(train_source), strategy.num_replicas_in_sync, say)
    with strategy.scope():
        student = build_model(run.model, recipe, train_source.class_names, say)
        processor = find_processor(run.model, recipe, student.config)
        recipe = recipe.replace(mean=tuple(processor.image_mean), std=tuple(processor.image_std))
        train_data, test_data = make_pipelines(recipe, train_source, test_source, processor, workers)
        task: Classification | MaskedImages
        if recipe.task == "classification":
            teacher = load_teacher(run.teacher, run.teacher_pixels, jit=recipe.jit) if run.teacher else None
            task = classification(recipe, student, teacher)
        else:
            mask = functools.partial(
                masked_pipeline, config=student.config, block_size=recipe.mask_block, ratio=recipe.mask_ratio
            )
            task, train_data, test_data = MaskedImages(), mask(train_data), mask(test_data)
        learner = Learner(student, task, recipe.accumulation, recipe.clip, recipe.ema, recipe.jit)
        learner.compile(make_optimizer(recipe, student.config, train_data.steps_per_epoch))
    trainer = Trainer(learner, recipe, train_data, test_data, directory)
    if workers.chief:
        record(directory, recipe, run)
    size = f"{type(student).__name__}, {student.count_params() / 1e6:.1f} M parameters"
    plan = f"{trainer.total} steps of {recipe.batch_size} images, {recipe.epochs} epochs"
    say(f"{run.model}: {size}; {plan}; learning rate {recipe.peak_lr:.3g}")
    finished = trainer.fit()
    if finished and workers.chief:
        write_models(trainer, processor, directory)
    for failure in train_data.failures + test_data.failures:
        say(f"skipped {failure.name}: {failure.reason}")
    return finished


def write_models(trainer: Trainer, processor: BaseImageProcessor, directory: Path):
    """Writes model/ and model_ema/; of masked image modelling, also reconstruction.png, of images to evaluate on."""
    for name, averaged in {"model": False, "model_ema": True}.items():
        if trainer.learner.averages or not averaged:
            trainer.weights(averaged).save_pretrained(directory / name)
            processor.save_pretrained(directory / name)
    if trainer.recipe.task == "masked_image_modeling" and trainer.validation is not None:
        pixel_values, masks = (array[:8] for array in next(trainer.validation.dataset().as_numpy_iterator()))
        page = reconstruction_grid(trainer.model, pixel_values, masks, trainer.recipe.mean, trainer.recipe.std)
        page.save(directory / "reconstruction.png")


def fitting_batch(recipe: TrainRecipe, images: int, replicas: int, say: Callable) -> TrainRecipe:
    """Returns the recipe with a batch that is no larger than the data, and that parts and replicas divide."""
    unit = recipe.accumulation * replicas
    largest = images // unit * unit
    if largest == 0:
        raise ValueError(
            f"Expected at least {unit} images, accumulation={recipe.accumulation} times {replicas} devices. Received: "
            f"{images}"
        )
    if recipe.batch_size % unit:
        raise ValueError(
            f"Expected batch_size to be a multiple of {unit}, accumulation={recipe.accumulation} times {replicas} "
            f"devices. Received: batch_size={recipe.batch_size}"
        )
    if recipe.batch_size > largest:
        say(f"batch_size={largest} in place of {recipe.batch_size}: there are {images} images")
        recipe = recipe.replace(batch_size=largest)
    return recipe


def build_model(name: str, recipe: TrainRecipe, class_names: list[str], say: Callable) -> PretrainedModel:
    """Returns the student of a recipe.

    Args:
        name: a name of the zoo, or a directory; for the architecture only, unless the recipe is `pretrained`.
        recipe: the recipe.
        class_names: of the data.
        say: told what is newly initialised.
    """
    changes: dict[str, Any] = {"drop_path_rate": recipe.drop_path, "hidden_dropout_prob": recipe.dropout}
    if recipe.image_size:
        changes["image_size"] = recipe.image_size
    if recipe.pretrained or name not in zoo.BY_NAME:
        directory = find_directory(name)
        values = read_config(directory)
        if values.get("model_type") not in CONFIG_CLASSES:
            raise ValueError(f"Expected a ViT or DeiT in {name}. Received: model_type={values.get('model_type')!r}")
        config = CONFIG_CLASSES[values["model_type"]].from_dict(values)
    else:
        config = zoo.find(name).config()
    if not _same_classes(class_names, config):
        changes["id2label"] = class_names
    if recipe.task == "masked_image_modeling":
        changes["encoder_stride"] = config.patch_hw[0]
    model_class = _CLASSES[config.model_type, recipe.task, recipe.heads]
    if recipe.pretrained:
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


def _same_classes(class_names: list[str], config: ViTConfig) -> bool:
    """Whether the head of a checkpoint answers with the classes of the data, in their order."""
    if len(class_names) != config.num_labels:
        return False
    try:
        found, note = match_classes(class_names, config.id2label)
    except ValueError:
        return False
    return note is None and found == list(range(len(found)))


def find_processor(name: str, recipe: TrainRecipe, config: ViTConfig) -> BaseImageProcessor:
    """Returns the image processor of the model: its own, or one of the recipe's protocol, or of Facebook's."""
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
    """Returns the batches to train on, of this worker, and all to evaluate on."""
    loading = Loading(on_error=recipe.on_error)
    order = Order(recipe.seed, recipe.repeats, workers.rank, workers.count)
    size = (processor.crop_size if processor.do_center_crop else processor.size)["height"]
    batch = recipe.batch_size // workers.count
    mix = recipe.task == "classification"
    train_data = train_pipeline(train_source, batch, size, recipe, mix=mix, order=order, loading=loading)
    test_data = eval_pipeline(test_source, min(recipe.batch_size, 64), processor, loading=loading)
    return train_data, test_data


def record(directory: Path, recipe: TrainRecipe, run: Run):
    """Writes recipe.toml and arguments.json; those of a run that is resumed must be the same.

    Raises:
        ValueError: if they are not.
    """
    arguments = json.dumps(run._asdict(), indent=2) + "\n"
    recipe_file, arguments_file = directory / "recipe.toml", directory / "arguments.json"
    if recipe_file.exists():
        differences = TrainRecipe.from_toml(recipe_file).differences(recipe)
        if arguments_file.exists() and arguments_file.read_text(encoding="utf-8") != arguments:
            differences.append(f"arguments: {arguments_file.read_text(encoding='utf-8')}")
        if differences:
            raise ValueError(
                f"Expected to resume {directory} with what it was started with. Received other values: "
                f"{'; '.join(differences)}. Leave them out, or start another run."
            )
    for file, text in ((recipe_file, recipe.to_toml()), (arguments_file, arguments)):
        with complete_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
