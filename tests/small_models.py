"""Every class of models, so small that a test builds it in no time."""

import pytest

import tfdeit

MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 5,
}
CLASSES = [
    tfdeit.TFViTModel,
    tfdeit.TFDeiTModel,
    tfdeit.TFViTForImageClassification,
    tfdeit.TFDeiTForImageClassification,
    tfdeit.TFDeiTForImageClassificationWithTeacher,
    tfdeit.TFViTForMaskedImageModeling,
    tfdeit.TFDeiTForMaskedImageModeling,
]
CLASSIFIERS = CLASSES[2:5]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_classifier = pytest.mark.parametrize("cls", CLASSIFIERS, ids=lambda cls: cls.__name__)


def build(cls, dtype=None, **changes):
    return cls(cls.config_class(**MICRO | changes), dtype=dtype)
