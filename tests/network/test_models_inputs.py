"""Inputs of models: every form of them, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import MICRO, build, every_class

import tfdeit
from tfdeit.config import ViTConfig


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_keras_image_data_format_does_not_matter(data_format, pixel_values):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        assert build(tfdeit.TFViTModel)(pixel_values).last_hidden_state.shape == (4, 17, 32)
    finally:
        keras.config.set_image_data_format(before)


def test_inputs_as_keyword_dict_and_in_a_functional_model(pixel_values):
    model = build(tfdeit.TFViTForImageClassification)
    expected = np.asarray(model(pixel_values).logits)
    np.testing.assert_array_equal(model(pixel_values=pixel_values).logits, expected)
    np.testing.assert_array_equal(model({"pixel_values": pixel_values}).logits, expected)
    inputs = keras.Input((32, 32, 3))
    functional = keras.Model(inputs, ops.softmax(model(inputs).logits))
    np.testing.assert_allclose(ops.sum(functional(pixel_values), axis=-1), np.ones(4), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 3, 32, 32),
            r"Received: shape \(2, 3, 32, 32\). They are channels first: pass np.transpose",
        ),
        ((2, 32, 32, 4), r"Expected pixel_values of shape \(batch, 32, 32, 3\)"),
        ((32, 32, 3), r"Add the batch axis with pixel_values\[None\]"),
        ((2, 40, 32, 3), "pass interpolate_pos_encoding=True, or load the model with"),
        ((2, 0, 0, 3), "Received: shape"),
    ],
)
@every_class
def test_wrong_pixel_values(cls, shape, message):
    with pytest.raises(ValueError, match=message):
        build(cls)(np.zeros(shape, "float32"))


def test_sides_that_are_no_multiple_of_the_patch():
    with pytest.raises(ValueError, match="multiples of patch_size=8. Received: height 40, width 36"):
        build(tfdeit.TFViTModel)(np.zeros((1, 40, 36, 3), "float32"), interpolate_pos_encoding=True)


def test_unprocessed_pixels_are_refused():
    with pytest.raises(ValueError, match="Expected floating-point pixel_values.*Received: dtype.*uint8"):
        build(tfdeit.TFViTModel)(np.zeros((1, 32, 32, 3), "uint8"))


def test_other_wrong_inputs(pixel_values):
    model = build(tfdeit.TFViTModel)
    with pytest.raises(ValueError, match=r"Expected head_mask of shape \(2,\) or \(3, 2\). Received: \(3,\)"):
        model(pixel_values, head_mask=np.ones(3))
    with pytest.raises(ValueError, match="Expected a model with a mask token for bool_masked_pos"):
        model(pixel_values, bool_masked_pos=np.zeros((4, 16), bool))
    with pytest.raises(ValueError, match=r"Expected bool_masked_pos of shape \(batch, 16\). Received: \(4, 4\)"):
        build(tfdeit.TFViTForMaskedImageModeling)(pixel_values, bool_masked_pos=np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="Expected a dict with the key 'pixel_values'. Received: keys"):
        model({"images": pixel_values})
    with pytest.raises(ValueError, match="Expected a DeiTConfig for TFDeiTModel. Received: ViTConfig"):
        tfdeit.TFDeiTModel(ViTConfig(**MICRO))
    with pytest.raises(ValueError, match="Expected encoder_stride to equal patch_size=8"):
        build(tfdeit.TFViTForMaskedImageModeling, encoder_stride=16)
    with pytest.raises(ValueError, match="Give the height and width statically"):
        model(keras.Input((None, None, 3)), interpolate_pos_encoding=True)


def test_an_empty_batch_gives_empty_outputs():
    model = build(tfdeit.TFDeiTForImageClassificationWithTeacher)
    assert model(np.zeros((0, 32, 32, 3), "float32")).logits.shape == (0, 5)
