"""DeiT and ViT image classifiers for Keras 3 and TensorFlow."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module: imported at first use, as TensorFlow takes seconds and the command line must not wait for it.
_MODULES = {
    "network.backbone": ["TFDeiTModel", "TFViTModel"],
    "config": ["DeiTConfig", "ViTConfig"],
    "inference.by_name": ["get_model", "inference_model"],
    "preprocessing.images": ["ImageError", "decode_image"],
    "network.layers": ["MLP", "PatchEmbedding", "SelfAttention", "TokenConcatenation", "TransformerBlock"],
    "network.models": [
        "TFAutoModelForImageClassification",
        "TFDeiTForImageClassification",
        "TFDeiTForImageClassificationWithTeacher",
        "TFDeiTForMaskedImageModeling",
        "TFViTForImageClassification",
        "TFViTForMaskedImageModeling",
    ],
    "preprocessing.processors": [
        "AutoFeatureExtractor",
        "AutoImageProcessor",
        "DeiTFeatureExtractor",
        "DeiTImageProcessor",
        "DeiTImageProcessorFast",
        "ViTFeatureExtractor",
        "ViTImageProcessor",
        "ViTImageProcessorFast",
    ],
    "checkpoint": ["CheckpointError"],
    "zoo": ["list_models"],
    "checkpoint.port": ["port"],
    "exports.export": ["export_model"],
    "exports.saved_model.export": ["export_saved_model"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
