"""The names of the classes that published checkpoints know."""

from functools import cache
from pathlib import Path


@cache
def imagenet_classes() -> dict[str, str]:
    """Returns the 1000 classes of ImageNet-1k in their order: the synset in WordNet 3.0 -> its words, as on the hub."""
    lines = (Path(__file__).parent / "imagenet.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def imagenet_id2label() -> dict[int, str]:
    """Returns class index -> name, for `id2label` of a config."""
    return dict(enumerate(imagenet_classes().values()))
