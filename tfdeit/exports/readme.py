"""The files beside an exported network: labels, configurations, and a README on running it without this library."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfdeit.network.backbone import PretrainedModel
from tfdeit.preprocessing.base_processor import BaseImageProcessor

_README = """\
# @NAME@

@MODEL@: @PARAMETERS@ M parameters, weights stored as @DTYPE@, images of @HEIGHT@x@WIDTH@ pixels, @CLASSES@ classes.
Written by tfdeit @VERSION@.

- `@FILE@`: from `pixel_values` (batch, @SHAPE@) float32 to `logits` (batch, @CLASSES@) float32, for any batch size
- `labels.txt`: the names of the classes, one per line
- `preprocessor_config.json`, `config.json`: the image processor and the network, as on the Hugging Face Hub

To classify photos, install the packages, save the code below as `classify.py` in this directory, and run
`python classify.py PHOTO ...` here:

```sh
pip install @PACKAGES@
```

```python
import sys
from pathlib import Path

import numpy as np
@IMPORTS@


@PREPROCESS@


@CLASSIFY@


if __name__ == "__main__":
    labels = Path("labels.txt").read_text(encoding="utf-8").splitlines()
    logits = classify(np.stack([preprocess(path) for path in sys.argv[1:]])).astype("float64")
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    for path, row in zip(sys.argv[1:], scores):
        best = np.argsort(-row)[:3]
        print(path, *(f"{labels[i]} {row[i]:.1%}" for i in best), sep="  ")
```
"""


class Usage(NamedTuple):
    """How to run an exported network without this library."""

    file: str  # the one with the network
    dtype: str  # of the weights in it
    packages: str  # what to install beside numpy, separated by spaces
    imports: str  # Python code, one import per line
    classify: str  # Python code of a function `classify` from pixel values to logits
    channels_first: bool = False  # whether the network takes pixel values (B, C, H, W)


def write_side_files(model: PretrainedModel, processor: BaseImageProcessor, directory: Path, usage: Usage) -> None:
    """Writes labels.txt, preprocessor_config.json, README.md, and config.json if there is none yet.

    Args:
        model: what was exported.
        processor: its image processor.
        directory: of the export.
        usage: how to run it.
    """
    config = model.config
    labels = [config.id2label[index].replace("\n", " ") for index in range(config.num_labels)]
    (directory / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    processor.save_pretrained(directory)
    if not (directory / "config.json").exists():
        values = {**config.to_dict(), "architectures": [type(model).__name__.removeprefix("TF")]}
        (directory / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    plain, preprocess = preprocessing_code(processor, usage.channels_first)
    image_import, image_package = "from tfdeit import AutoImageProcessor", "tfdeit"
    if plain:
        image_import, image_package = "from PIL import Image", "pillow"
    imports = sorted([*usage.imports.splitlines(), image_import], key=lambda line: (line.startswith("from"), line))
    (height, width), channels = config.image_hw, config.num_channels
    values = describe(model, directory.name) | {
        "DTYPE": usage.dtype,
        "FILE": usage.file,
        "SHAPE": f"{channels}, {height}, {width}" if usage.channels_first else f"{height}, {width}, {channels}",
        "PACKAGES": f"numpy {image_package} {usage.packages}",
        "IMPORTS": "\n".join(imports),
        "PREPROCESS": preprocess,
        "CLASSIFY": usage.classify,
    }
    (directory / "README.md").write_text(fill(_README, values), encoding="utf-8")


def describe(model: PretrainedModel, name: str) -> dict[str, Any]:
    """Returns what the README of every export says about its model, by placeholder."""
    from tfdeit import __version__

    height, width = model.config.image_hw
    return {
        "NAME": name,
        "MODEL": type(model).__name__,
        "PARAMETERS": f"{model.count_params() / 1e6:.1f}",
        "HEIGHT": height,
        "WIDTH": width,
        "CLASSES": model.config.num_labels,
        "VERSION": __version__,
    }


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Replaces each placeholder @KEY@ by its value."""
    return re.sub("@([A-Z]+)@", lambda match: str(values[match[1]]), template)


def preprocessing_code(processor: BaseImageProcessor, channels_first: bool) -> tuple[bool, str]:
    """Returns Python code of a function `preprocess` from a path to pixel values (H, W, 3), or (3, H, W).

    Returns:
        Whether Pillow and numpy are enough for it, as for every published protocol; the code. It is exact for 8-bit
        images without transparency.
    """
    order = ".transpose(2, 0, 1)" if channels_first else ""
    if not _is_plain(processor):
        return False, (
            f'def preprocess(path):\n    processor = AutoImageProcessor.from_pretrained(".")\n'
            f'    return processor(path, return_tensors="np").pixel_values[0]{order}'
        )
    lines = ["def preprocess(path):", 'image = Image.open(path).convert("RGB")', *_resize_and_crop(processor)]
    lines.append("values = np.asarray(image)")
    if processor.do_rescale:
        lines.append(f'values = (values * {processor.rescale_factor!r}).astype("float32")')
    if processor.do_normalize:
        lines += [
            f'mean = np.array({processor.image_mean}, "float32")',
            f'std = np.array({processor.image_std}, "float32")',
            "values = (values - mean) / std",
        ]
    lines.append(f'return values.astype("float32"){order}')
    return True, "\n    ".join(lines)


def _resize_and_crop(processor):
    if "height" in processor.size:
        size, lines = f"({processor.size['width']}, {processor.size['height']})", []
    else:
        side = processor.size["shortest_edge"]
        size = "(width, height)"
        lines = ["short = min(image.size)", f"width, height = ({side} * length // short for length in image.size)"]
    lines.append(f"image = image.resize({size}, {processor.resample})")
    if processor.do_center_crop:
        height, width = processor.crop_size["height"], processor.crop_size["width"]
        middle = "{} // 2" if processor.crop_rounding == "floor" else "round({} / 2)"
        left, top = (middle.format(f"(image.{axis} - {n})") for axis, n in (("width", width), ("height", height)))
        lines += [f"left, top = {left}, {top}", f"image = image.crop((left, top, left + {width}, top + {height}))"]
    return lines


def _is_plain(processor):
    """Whether it resizes to a fixed size or by the shortest edge, and never crops beyond the image."""
    if not processor.do_resize or processor.exif_orientation:
        return False
    if processor.size.keys() not in ({"height", "width"}, {"shortest_edge"}):
        return False
    return not processor.do_center_crop or min(processor.size.values()) >= max(processor.crop_size.values())
