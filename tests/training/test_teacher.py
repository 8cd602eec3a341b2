"""Teachers of every kind answer a student's pixels as they answer their own; unfit ones are refused early."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdeit import TFDeiTForImageClassification, TFDeiTForImageClassificationWithTeacher, TFViTForImageClassification
from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.preprocessing.processors import protocol_processor
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD
from tfdeit.training.recipe import TrainRecipe
from tfdeit.training.tasks import classification
from tfdeit.training.teacher import PIXELS, Teacher, keras_teacher, load_teacher

NAMES = ["a", "b", "c"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"image_size": 32, "patch_size": 8, "encoder_stride": 8}


def convnet(size=24, activation=None, classes=3, layers=()):
    """A classifier of its own input size, for pixels from 0 to 255."""
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(4, 5, strides=4, activation="relu"),
            *layers,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


@pytest.fixture
def photo(photos_dir):
    """A photo (32, 32, 3) uint8, and a student's pixel values of it, (1, 32, 32, 3)."""
    image = Image.open(photos_dir / "coffee.jpg").convert("RGB").resize((32, 32))
    pixels = np.asarray(image)
    return pixels, ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype("float32")[None]


def fitted(teacher, names=NAMES):
    teacher.prepare(names, (32, 32), IMAGENET_MEAN, IMAGENET_STD)
    return teacher


def test_a_keras_model_sees_its_own_size_and_range(photo):
    model, (pixels, values) = convnet(), photo
    answer = fitted(keras_teacher(model))(values).numpy()
    floats = [Image.fromarray(channel) for channel in np.moveaxis(pixels.astype("float32"), -1, 0)]
    smaller = np.stack([image.resize((24, 24), Image.Resampling.BICUBIC) for image in floats], -1)  # Pillow, in floats
    np.testing.assert_allclose(answer, model(smaller[None]).numpy(), atol=2e-5)


def test_files(photo, tmp_path):
    model, (_, values) = convnet(32), photo
    expected = fitted(keras_teacher(model))(values).numpy()
    model.save(tmp_path / "teacher.keras")
    model.export(tmp_path / "saved", verbose=False)
    for path in (tmp_path / "teacher.keras", tmp_path / "saved"):
        np.testing.assert_allclose(fitted(load_teacher(path))(values).numpy(), expected, atol=1e-5)
        other = fitted(load_teacher(path, pixels="0..1"))(values).numpy()
        assert np.abs(other - expected).max() > 1e-3


def test_a_model_of_this_library(photo, tmp_path):
    config = DeiTConfig(**SIZES, id2label=["c", "x", "a", "b"])
    model = TFDeiTForImageClassificationWithTeacher(config)
    model.save_pretrained(tmp_path)
    protocol_processor("vit", 32).save_pretrained(tmp_path)  # mean and std of its own
    answer = fitted(load_teacher(tmp_path))(photo[1]).numpy()
    own = model(photo[0][None].astype("float32") / 127.5 - 1).logits.numpy()
    np.testing.assert_allclose(answer, own[:, [2, 3, 0]], atol=1e-5)  # by name


def test_probabilities_become_logits(photo):
    model = convnet(32, "softmax")
    answer = tf.nn.softmax(fitted(keras_teacher(model))(photo[1])).numpy()
    np.testing.assert_allclose(answer, model(photo[0][None]).numpy(), atol=1e-5)


@pytest.mark.slow
def test_an_application(photo):
    teacher = fitted(load_teacher("MobileNetV2", weights=None), [str(i) for i in range(1000)])
    assert teacher.image_size == (224, 224)
    pixels = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype("float32")
    expected = keras.applications.mobilenet_v2.preprocess_input(pixels * 255)
    np.testing.assert_allclose(teacher.preprocess(tf.constant(pixels)), expected, atol=1e-5)
    assert not teacher.probabilities


def test_it_is_in_inference_mode(photo):
    teacher = fitted(keras_teacher(convnet(32, layers=[keras.layers.Dropout(0.5), keras.layers.BatchNormalization()])))
    with tf.GradientTape() as tape:
        values = tf.constant(photo[1])
        tape.watch(values)
        one, two = teacher(values), teacher(values)
    np.testing.assert_array_equal(one, two)
    assert tape.gradient(one, values) is None


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: keras_teacher(convnet(32, classes=4)), "3 classes of the data. Received: one of 4"),
        (lambda: keras_teacher(keras.Sequential(convnet(32).layers[:2])), r"an output of shape \(4, 7, 7, 4\)"),
        (lambda: Teacher(lambda x: (x, x)), "Received: tuple"),
        (lambda: Teacher(lambda x: x[:, 0, 0] * np.nan), "finite logits"),
        (lambda: keras_teacher(convnet(32, classes=4), id2label={0: "a", 1: "b", 2: "d", 3: "e"}), "'c'"),
    ],
)
def test_unfit_teachers(teacher, message):
    with pytest.raises(ValueError, match=message):
        fitted(teacher())


def test_unknown_teachers(tmp_path):
    with pytest.raises(ValueError, match="pixels of a teacher"):
        load_teacher("ResNet50", pixels="0..2")
    with pytest.raises(ValueError, match="SavedModels only"):
        load_teacher("ResNet50", pixels="0..1")
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(ValueError, match="serving_default"):
        load_teacher(tmp_path)
    assert set(PIXELS) == {"0..255", "0..1", "-1..1", "imagenet"}


def test_students_that_cannot_be_taught():
    hard = TrainRecipe(distillation="hard")
    student = TFViTForImageClassification(ViTConfig(**SIZES, id2label=NAMES))
    teacher = keras_teacher(convnet(32))
    with pytest.raises(ValueError, match="distillation token.*heads=class"):
        classification(hard, student, teacher)
    with pytest.raises(ValueError, match="Expected a teacher"):
        classification(hard, student)
    with pytest.raises(ValueError, match="Expected a recipe that distils"):
        classification(TrainRecipe(), student, teacher)
    one_head = TFDeiTForImageClassification(DeiTConfig(**SIZES, id2label=NAMES))
    for pupil in (student, one_head):  # on the class token
        task = classification(hard.replace(heads="class"), pupil, teacher)
        targets = task.targets(tf.zeros((2, 32, 32, 3)), tf.constant([0, 1]))
        loss, figures = task.loss(pupil, tf.zeros((2, 32, 32, 3)), targets)
        assert np.isfinite(loss)
        assert set(figures) == {"accuracy"}
