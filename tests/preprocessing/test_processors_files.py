"""Files of processors: to transformers and back, what older ones and the hub's say, and broken ones."""

import json

import numpy as np
import pytest
from pillow_pixels import IMAGENET, reference

from tfdeit.preprocessing import processors
from tfdeit.preprocessing.processors import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    DeiTFeatureExtractor,
    DeiTImageProcessor,
    DeiTImageProcessorFast,
    ViTFeatureExtractor,
    ViTImageProcessor,
)


@pytest.mark.parametrize("kind", ["DeiT", "ViT"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {**IMAGENET, "size": {"shortest_edge": 40}, "crop_size": 30, "do_center_crop": True, "resample": 1},
        {"do_resize": False, "do_rescale": False, "do_normalize": False, "rescale_factor": 0.5, "do_convert_rgb": True},
    ],
    ids=str,
)
def test_round_trip_with_transformers(transformers, tmp_path, small, kind, options):
    theirs_class = getattr(transformers, f"{kind}ImageProcessorPil")
    ours_class = getattr(processors, f"{kind}ImageProcessor")
    ours, theirs = ours_class(**options), theirs_class(**options)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    reloaded = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert type(reloaded) is theirs_class
    assert reloaded.to_dict() == theirs.to_dict()
    for path in (tmp_path / "ours", tmp_path / "theirs", tmp_path / "theirs" / "preprocessor_config.json"):
        loaded = AutoImageProcessor.from_pretrained(path)
        assert type(loaded) is ours_class
        known = {key: value for key, value in loaded.to_dict().items() if key not in loaded.extra}
        assert known == ours.to_dict()
        assert np.array_equal(loaded(small[:1]).pixel_values, reference(transformers, kind, small[:1], options))


def test_unknown_entries_and_own_fields_survive(tmp_path):
    processor = DeiTImageProcessorFast.from_dict({"size": 99, "some_future_key": [1], "processor_class": "X"})
    assert processor.extra == {"some_future_key": [1], "processor_class": "X"}
    processor.replace(crop_rounding="round", exact=False, exif_orientation=True).save_pretrained(
        tmp_path / "new" / "dir"
    )
    stored = json.loads((tmp_path / "new" / "dir" / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "DeiTImageProcessor"
    assert stored["some_future_key"] == [1]
    assert (stored["crop_rounding"], stored["exact"], stored["exif_orientation"]) == ("round", False, True)
    assert not {"crop_rounding", "exact", "exif_orientation", "pass_order"} & set(processor.to_dict())
    again = DeiTImageProcessorFast.from_pretrained(tmp_path / "new" / "dir", size=50)
    assert (again.size, again.crop_rounding, again.exact) == ({"height": 50, "width": 50}, "round", False)
    with pytest.raises(TypeError, match="Did you mean 'resample'"):
        DeiTImageProcessor.from_pretrained(tmp_path / "new" / "dir", resampel=3)


def test_legacy_file_of_the_hub(tmp_path, transformers, small):
    """The content of facebook/deit-base-distilled-patch16-224's file, from before sizes were dictionaries."""
    config = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": 256,
    }
    config = {**config, **IMAGENET, "feature_extractor_type": "DeiTFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(processor) is DeiTFeatureExtractor is DeiTImageProcessor
    assert np.array_equal(processor(small).pixel_values, reference(transformers, "DeiT", small, IMAGENET))
    assert type(AutoImageProcessor.from_pretrained(tmp_path, use_fast=True)) is DeiTImageProcessorFast
    assert AutoImageProcessor.from_pretrained(tmp_path, do_resize=False).do_resize is False


@pytest.mark.parametrize("suffix", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"])
def test_auto_understands_every_name(tmp_path, suffix):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": f"ViT{suffix}"}))
    assert type(AutoImageProcessor.from_pretrained(path)) is ViTFeatureExtractor is ViTImageProcessor


def test_auto_without_a_name(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 99}')
    with pytest.raises(ValueError, match=r"of DeiT or ViT. Received: 'None'"):
        AutoImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ViTImageProcessor
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    with pytest.raises(ValueError, match=r"Received: 'CLIPImageProcessor'.*ViTImageProcessor.from_pretrained"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_broken_files(tmp_path):
    with pytest.raises(ValueError, match="Expected the directory of a checkpoint.*Received: .*absent"):
        DeiTImageProcessor.from_pretrained(tmp_path / "absent")
    path = tmp_path / "preprocessor_config.json"
    for text, message in [
        ("{", "Expected a JSON object in .*preprocessor_config.json"),
        ("[]", "Received: a list"),
        ('{"size": -1}', "size=-1"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            DeiTImageProcessor.from_pretrained(tmp_path)
