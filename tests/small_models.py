"""Every class of models, so small that a test builds it in no time."""

import pytest
from sizes import MICRO

import tfdeit

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
