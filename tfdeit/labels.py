"""The names of classes: ImageNet's, a user's, and those of a data set matched with a model's."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tfdeit.presentation.terminal import counted

_SHOWN = 20  # names listed in a message, at most


@cache
def imagenet_classes() -> dict[str, str]:
    """Returns the 1000 classes of ImageNet-1k in order: synset of WordNet 3.0 -> its words, as on the hub."""
    lines = (Path(__file__).parent / "imagenet.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def imagenet_id2label() -> dict[int, str]:
    """Returns class index -> name, for `id2label` of a config."""
    return dict(enumerate(imagenet_classes().values()))


def name_classes(labels: str | os.PathLike[str] | Sequence[str], count: int) -> list[str]:
    """Returns the names of `count` classes: the given ones, or the lines of a text file.

    Raises:
        ValueError: if there are more or fewer.
    """
    where = ""
    if isinstance(labels, (str, os.PathLike)):
        where = f" in {labels}, one per line"
        labels = Path(labels).read_text(encoding="utf-8").splitlines()
    if len(labels) != count:
        received = counted(len(labels), "label")
        raise ValueError(f"Expected {counted(count, 'label')}, one per class. Received: {received}{where}.")
    return list(labels)


def match_classes(names: Sequence[str], id2label: Mapping[int, str]) -> tuple[list[int], str | None]:
    """Finds the classes of a data set among those of a model.

    A name may be a label, an ImageNet synset (n01440764) if the model's classes are ImageNet's, one of the words of a
    label (`tench` of "tench, Tinca tinca"), or the index of a class, tried in this order; an ambiguous name matches
    nothing. Case is ignored, and `_` counts as a space. If there are as many names as labels, and those that match
    are in the same order, the others are matched by position.

    Args:
        names: of the classes of the data set, in order.
        id2label: class index -> name, of the model.

    Returns:
        The index of each name; and a note that lists those matched by position, or None.

    Raises:
        ValueError: listing the names that match no class.
    """
    index_of = _indices(id2label)
    found = [index_of.get(_plain(name)) for name in names]
    unknown = [place for place, index in enumerate(found) if index is None]
    if not unknown:
        return [index for index in found if index is not None], None
    if len(names) == len(id2label) and all(index in (None, place) for place, index in enumerate(found)):
        pairs = [f"{names[i]} = {id2label[i]}" for i in unknown[:_SHOWN]]
        return list(range(len(names))), (
            f"{counted(len(unknown), 'class')} of the data matched by position, as the model has other names: "
            f"{_listed(pairs, len(unknown))}"
        )
    known = _listed([*map(repr, id2label.values())][:_SHOWN], len(id2label))
    raise ValueError(
        f"Expected classes of the model: {known}. "
        f"Received: {counted(len(unknown), 'unknown class')} out of {len(names)}: "
        f"{_listed([repr(names[i]) for i in unknown[:_SHOWN]], len(unknown))}. Rename them, or leave them out."
    )


def _indices(id2label: Mapping[int, str]) -> dict[str, int]:
    """Returns every name that means exactly one class -> its index."""
    labels = {index: _plain(label) for index, label in id2label.items()}
    tiers = [
        [(label, index) for index, label in labels.items()],
        [(synset, index) for index, synset in enumerate(imagenet_classes())] if _knows_imagenet(id2label) else [],
        [(word, index) for index, label in labels.items() for word in dict.fromkeys(label.split(", "))],
        [(str(index), index) for index in labels],
    ]
    index_of: dict[str, int] = {}
    for tier in tiers:
        counts = Counter(name for name, _ in tier)
        index_of = {name: index for name, index in tier if counts[name] == 1} | index_of
    return index_of


def _knows_imagenet(id2label: Mapping[int, str]) -> bool:
    """Whether the labels are ImageNet's, bar the spelling of a few; or are as many, and have no names."""
    words = imagenet_id2label()
    if len(id2label) != len(words):
        return False
    unnamed = all(label == f"LABEL_{index}" for index, label in id2label.items())
    return unnamed or sum(words[index] == label for index, label in id2label.items()) > 0.9 * len(words)


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _listed(shown: Sequence[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
