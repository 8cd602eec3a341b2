"""What lies beside an exported network: labels, configurations, and how to run it without this library."""

import json
from pathlib import Path

from tfdeit.backbone import PretrainedModel
from tfdeit.base_processor import BaseImageProcessor

_README = """\
# {name}

{model_class}: {parameters} M parameters, weights as {dtype}, images of {height}x{width} pixels, {classes} classes.
Written by tfdeit {version}.

- `{file}`: from `pixel_values` (batch, {shape}) float32 to `logits` (batch, {classes}) float32, for any batch
- `labels.txt`: the name of each class, a line each
- `preprocessor_config.json`, `config.json`: what the image processor and the network are, as on the Hugging Face hub

```sh
pip install {packages}
```

```python
import sys
from pathlib import Path

import numpy as np
{imports}


{preprocess}


{run}


if __name__ == "__main__":
    labels = Path("labels.txt").read_text(encoding="utf-8").splitlines()
    logits = classify(np.stack([preprocess(path) for path in sys.argv[1:]])).astype("float64")
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    for path, row in zip(sys.argv[1:], scores):
        best = np.argsort(-row)[:3]
        print(path, *(f"{{labels[i]}} {{row[i]:.1%}}" for i in best), sep="  ")
```
"""

# Of each format: the file, packages, imports, and the function `classify`.
_RUNTIMES = {
    "litert": (
        "model.tflite",
        "ai-edge-litert",
        "from ai_edge_litert.interpreter import Interpreter",
        """\
def classify(pixel_values):
    runner = Interpreter("model.tflite", num_threads=4).get_signature_runner()
    return runner(pixel_values=pixel_values)["logits"]""",
    ),
    "onnx": (
        "model.onnx",
        "onnxruntime",
        "import onnxruntime",
        """\
def classify(pixel_values):
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixel_values})[0]""",
    ),
    "openvino": (
        "model.xml",
        "openvino",
        "import openvino",
        """\
def classify(pixel_values):
    core = openvino.Core()
    precision = @PRECISION@
    model = core.compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return model(pixel_values)["logits"]""",
    ),
    "torch": (
        "model.safetensors",
        "torch transformers",
        "import torch\nimport transformers",
        """\
def classify(pixel_values):
    model = transformers.@CLASS@.from_pretrained(".", dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor(pixel_values)).logits.numpy()""",
    ),
}


def write_side_files(model: PretrainedModel, processor: BaseImageProcessor, directory: Path, name: str, dtype: str):
    """Writes labels.txt, preprocessor_config.json, config.json and README.md.

    Args:
        model: what was exported.
        processor: its image processor.
        directory: of the export.
        name: of the format.
        dtype: of the weights.
    """
    from tfdeit import __version__

    config, model_class = model.config, type(model).__name__
    labels = [config.id2label[index].replace("\n", " ") for index in range(config.num_labels)]
    (directory / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    processor.save_pretrained(directory)
    if not (directory / "config.json").exists():
        values = {**config.to_dict(), "architectures": [model_class.removeprefix("TF")]}
        text = json.dumps(values, indent=2, sort_keys=True)
        (directory / "config.json").write_text(text + "\n", encoding="utf-8")

    file, packages, imports, run = _RUNTIMES[name]
    (height, width), channels = config.image_hw, config.num_channels
    precision = '"bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"'
    replaced = {
        "@PRECISION@": precision if dtype == "bfloat16" else '"f32"',
        "@CLASS@": model_class.removeprefix("TF"),
    }
    for key, value in replaced.items():
        run = run.replace(key, value)
    own_code, preprocess = preprocessing_code(processor, channels_first=name == "torch")
    image_import, image_package = ("from tfdeit import AutoImageProcessor", "tfdeit")
    if own_code:
        image_import, image_package = ("from PIL import Image", "pillow")
    text = _README.format(
        name=directory.name,
        model_class=model_class,
        parameters=f"{model.count_params() / 1e6:.1f}",
        dtype="float16" if (name, dtype) == ("openvino", "bfloat16") else dtype,  # OpenVINO only computes in it
        height=height,
        width=width,
        classes=config.num_labels,
        version=__version__,
        file=file,
        shape=f"{channels}, {height}, {width}" if name == "torch" else f"{height}, {width}, {channels}",
        packages=f"numpy {image_package} {packages}",
        imports="\n".join(
            sorted([*imports.splitlines(), image_import], key=lambda line: (line.startswith("from"), line))
        ),
        preprocess=preprocess,
        run=run,
    )
    (directory / "README.md").write_text(text, encoding="utf-8")


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
    lines = ["def preprocess(path):", 'image = Image.open(path).convert("RGB")']
    if "height" in processor.size:
        lines.append(
            f"image = image.resize(({processor.size['width']}, {processor.size['height']}), {processor.resample})"
        )
    else:
        side = processor.size["shortest_edge"]
        lines += [
            "short = min(image.size)",
            f"width, height = ({side} * length // short for length in image.size)",
            f"image = image.resize((width, height), {processor.resample})",
        ]
    if processor.do_center_crop:
        height, width = processor.crop_size["height"], processor.crop_size["width"]
        middle = "{} // 2" if processor.crop_rounding == "floor" else "round({} / 2)"
        left, top = (middle.format(f"(image.{axis} - {n})") for axis, n in (("width", width), ("height", height)))
        lines += [f"left, top = {left}, {top}", f"image = image.crop((left, top, left + {width}, top + {height}))"]
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


def _is_plain(processor):
    """Whether it resizes to a fixed size or by the short side, and cuts nothing that is not there."""
    if (
        not processor.do_resize
        or processor.exif_orientation
        or set(processor.size) not in ({"height", "width"}, {"shortest_edge"})
    ):
        return False
    resized = min(processor.size.values())
    return not processor.do_center_crop or resized >= max(processor.crop_size.values())
