"""The zoo: one row per published checkpoint, with what it is, where it is, and its accuracy under which protocol.

Parameters and MACs are derived from a row's config. A figure or hash that the publisher does not state is None.
`python -m tfdeit.zoo docs/zoo.md` updates the table in a file.
"""

import dataclasses
import fnmatch
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.labels import imagenet_id2label
from tfdeit.presentation.hints import did_you_mean

SIZES = {  # width, depth, heads; the MLP is four times as wide
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
DEIT3 = {"layer_norm_eps": 1e-6, "layerscale_value": 1e-4, "no_embed_class": True, "uniform_drop_path": True}
FACEBOOK = "https://dl.fbaipublicfiles.com/deit"
OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0/deit"
IN1K, IN21K = "ImageNet-1k", "ImageNet-21k"
MARKS = ("<!-- zoo -->\n", "<!-- end of zoo -->\n")  # around the table in docs/zoo.md


class Accuracy(NamedTuple):
    """Accuracy on ImageNet-1k's validation images, in percent, and the preprocessing with which it was measured."""

    top1: float
    top5: float
    protocol: str  # of `tfdeit.protocols`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A row of the zoo.

    Args:
        name: its name in this library.
        aliases: its names in timm, MMPretrain and keras-hub, and that of its file.
        title: what it is, in a few words.
        paper: arXiv identifier.
        data: what it was trained on.
        config_class: `ViTConfig` or `DeiTConfig`.
        architecture: fields of the config.
        hub_id: repository on the Hugging Face hub, in that hub's format.
        url: the publisher's file, in its own format.
        sha256: leading hexadecimal digits of the hash of the file at `url`.
        protocol: preprocessing of the row's source: the repository if there is one, else the file.
        accuracy: on ImageNet-1k.
        licence: SPDX identifier.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    paper: str
    data: str
    config_class: type[ViTConfig]
    architecture: Mapping[str, Any]
    hub_id: str | None = None
    url: str | None = None
    sha256: str | None = None
    protocol: str
    accuracy: Accuracy | None = None
    licence: str = "Apache-2.0"

    def config(self, **changes: Any) -> ViTConfig:
        """Returns the config, with `changes`."""
        return self.config_class(**self.architecture).replace(**changes)

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the publisher's file: its URL, and the last part of that."""
        return (self.url, self.url.rpartition("/")[2]) if self.url else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name by which `find` finds this row."""
        return (self.name, *self.aliases, *([self.hub_id] if self.hub_id else []), *self.file_names)

    def to_dict(self) -> dict[str, Any]:
        """Returns the row and the figures derived from it, ready for JSON."""
        config = self.config()
        top1, top5, measured_with = self.accuracy or (None, None, None)
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "title": self.title,
            "paper": f"https://arxiv.org/abs/{self.paper}",
            "data": self.data,
            "model_type": config.model_type,
            "classes": config.num_labels,
            "patch_size": config.patch_size,
            "image_size": config.image_size,
            "params": config.num_params,
            "macs": config.macs,
            "protocol": self.protocol,
            "top1": top1,
            "top5": top5,
            "accuracy_protocol": measured_with,
            "hub_id": self.hub_id,
            "url": self.url,
            "sha256": self.sha256,
            "licence": self.licence,
        }


def _architecture(size: str, patch_size: int, image_size: int, **options: Any) -> dict[str, Any]:
    width, depth, heads = SIZES[size]
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "patch_size": patch_size,
        "image_size": image_size,
        "encoder_stride": patch_size,
        "id2label": imagenet_id2label(),
        **options,
    }


def _deit(size: str, distilled: str, image_size: int, sha256: str, top1: float, top5: float) -> Checkpoint:
    """A model of the DeiT paper; accuracies and file names, which hold hashes, are from its README."""
    name = f"deit_{size}{distilled and '_distilled'}_patch16_{image_size}"
    return Checkpoint(
        name=name,
        aliases=(f"{name}.fb_in1k",),
        title=f"DeiT-{size}{distilled and ', distilled'}",
        paper="2012.12877",
        data=IN1K,
        config_class=DeiTConfig if distilled else ViTConfig,
        architecture=_architecture(size, 16, image_size),
        hub_id=f"facebook/{name.replace('_', '-')}",
        url=f"{FACEBOOK}/{name}-{sha256}.pth",
        sha256=sha256,
        protocol="hf",
        accuracy=Accuracy(top1, top5, "fb"),
    )


def _mmpretrain(name: str, file: str, top1: float, top5: float) -> Checkpoint:
    """A model of MMPretrain's table; `file` is made of its name in MMClassification, a date and a hash."""
    old_name, _, stamp = file.rpartition("_")
    image_size, distilled = (384 if "384px" in name else 224), "distilled" in name
    size = name.partition("_")[0].split("-")[1]
    origin = ", converted from Facebook's" if "3rdparty" in name else ", trained by MMPretrain"
    return Checkpoint(
        name=name,
        aliases=(old_name,),
        title=f"DeiT-{size}{', distilled' if distilled else ''}{origin}",
        paper="2012.12877",
        data=IN1K,
        config_class=DeiTConfig if distilled else ViTConfig,
        architecture=_architecture(size, 16, image_size, layer_norm_eps=1e-6),
        url=f"{OPENMMLAB}/{file}.pth",
        sha256=stamp.partition("-")[2],
        protocol="mmpretrain",
        accuracy=Accuracy(top1, top5, "mmpretrain"),
    )


def _vit(size: str, patch_size: int, image_size: int, accuracy: Accuracy | None = None) -> Checkpoint:
    """A model of the ViT paper, fine-tuned on ImageNet-1k; accuracies as timm measured them (mean and std 0.5)."""
    name = f"vit_{size}_patch{patch_size}_{image_size}"
    return Checkpoint(
        name=name,
        aliases=(f"{name}_imagenet", *([f"{name}.orig_in21k_ft_in1k"] if accuracy else [])),  # those still in timm
        title=f"ViT-{size}",
        paper="2010.11929",
        data=f"{IN21K}, then {IN1K}",
        config_class=ViTConfig,
        architecture=_architecture(size, patch_size, image_size),
        hub_id=f"google/{name.replace('_', '-')}",
        protocol="vit",
        accuracy=accuracy,
    )


def _vit_in21k(size: str, patch_size: int) -> Checkpoint:
    """A model of the ViT paper before fine-tuning: features and pooler, without the head of 21,843 classes."""
    name = f"vit_{size}_patch{patch_size}_224"
    return Checkpoint(
        name=f"{name}_in21k",
        aliases=(f"{name}_imagenet21k", f"{name}.orig_in21k"),
        title=f"ViT-{size}, features",
        paper="2010.11929",
        data=IN21K,
        config_class=ViTConfig,
        architecture=_architecture(size, patch_size, 224, id2label=None, num_labels=0),
        hub_id=f"google/{name.replace('_', '-')}-in21k",
        protocol="vit",
    )


def _deit3(size: str, image_size: int, data: str, top1: float, top5: float) -> Checkpoint:
    """A model of DeiT III; accuracies as timm measured them; its file names hold no hashes."""
    patch_size, pretrained = (14 if size == "huge" else 16), data == IN21K
    name = f"deit3_{size}_patch{patch_size}_{image_size}"
    file = f"deit_3_{size}_{image_size}_{'21k' if pretrained else '1k'}"
    protocol = "timm" if (image_size, data) == (224, IN1K) else "deit3"
    return Checkpoint(
        name=f"{name}_in21ft1k" if pretrained else name,
        aliases=(file, f"{name}.fb_{'in22k_ft_in1k' if pretrained else 'in1k'}"),
        title=f"DeiT III {size}",
        paper="2204.07118",
        data=f"{IN21K}, then {IN1K}" if pretrained else IN1K,
        config_class=ViTConfig,
        architecture=_architecture(size, patch_size, image_size, **DEIT3),
        url=f"{FACEBOOK}/{file}{'_v1' if file == 'deit_3_huge_224_21k' else ''}.pth",
        protocol=protocol,
        accuracy=Accuracy(top1, top5, protocol),
    )


CHECKPOINTS = (
    _deit("tiny", "", 224, "a1311bcf", 72.2, 91.1),
    _deit("small", "", 224, "cd65a155", 79.9, 95.0),
    _deit("base", "", 224, "b5f2ef4d", 81.8, 95.6),
    _deit("base", "", 384, "8de9b5d1", 82.9, 96.2),
    _deit("tiny", "distilled", 224, "b40b3cf7", 74.5, 91.9),
    _deit("small", "distilled", 224, "649709d9", 81.2, 95.4),
    _deit("base", "distilled", 224, "df68dfff", 83.4, 96.5),
    _deit("base", "distilled", 384, "d0272ac0", 85.2, 97.2),
    _mmpretrain("deit-tiny_4xb256_in1k", "deit-tiny_pt-4xb256_in1k_20220218-13b382a0", 74.50, 92.24),
    _mmpretrain(
        "deit-tiny-distilled_3rdparty_in1k",
        "deit-tiny-distilled_3rdparty_pt-4xb256_in1k_20211216-c429839a",
        *(74.51, 91.90),
    ),
    _mmpretrain("deit-small_4xb256_in1k", "deit-small_pt-4xb256_in1k_20220218-9425b9bb", 80.69, 95.06),
    _mmpretrain(
        "deit-small-distilled_3rdparty_in1k",
        "deit-small-distilled_3rdparty_pt-4xb256_in1k_20211216-4de1d725",
        *(81.17, 95.40),
    ),
    _mmpretrain("deit-base_16xb64_in1k", "deit-base_pt-16xb64_in1k_20220216-db63c16c", 81.76, 95.81),
    _mmpretrain("deit-base_3rdparty_in1k", "deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188", 81.79, 95.59),
    _mmpretrain(
        "deit-base-distilled_3rdparty_in1k",
        "deit-base-distilled_3rdparty_pt-16xb64_in1k_20211216-42891296",
        *(83.33, 96.49),
    ),
    _mmpretrain(
        "deit-base_224px-pre_3rdparty_in1k-384px",
        "deit-base_3rdparty_ft-16xb32_in1k-384px_20211124-822d02f2",
        *(83.04, 96.31),
    ),
    _mmpretrain(
        "deit-base-distilled_224px-pre_3rdparty_in1k-384px",
        "deit-base-distilled_3rdparty_ft-16xb32_in1k-384px_20211216-e48d6000",
        *(85.55, 97.35),
    ),
    _vit("base", 16, 224, Accuracy(81.786, 96.124, "timm")),
    _vit("base", 16, 384, Accuracy(84.200, 97.220, "timm")),
    _vit("base", 32, 384),
    _vit("large", 16, 224),
    _vit("large", 16, 384),
    _vit("large", 32, 384, Accuracy(81.510, 96.090, "timm")),
    _vit_in21k("base", 16),
    _vit_in21k("base", 32),
    _vit_in21k("large", 16),
    _vit_in21k("large", 32),
    _vit_in21k("huge", 14),
    _deit3("small", 224, IN1K, 81.370, 95.456),
    _deit3("small", 384, IN1K, 83.430, 96.674),
    _deit3("medium", 224, IN1K, 83.086, 96.296),
    _deit3("base", 224, IN1K, 83.786, 96.588),
    _deit3("base", 384, IN1K, 85.072, 97.252),
    _deit3("large", 224, IN1K, 84.776, 97.038),
    _deit3("large", 384, IN1K, 85.812, 97.598),
    _deit3("huge", 224, IN1K, 85.224, 97.360),
    _deit3("small", 224, IN21K, 83.074, 96.776),
    _deit3("small", 384, IN21K, 84.824, 97.488),
    _deit3("medium", 224, IN21K, 84.552, 97.188),
    _deit3("base", 224, IN21K, 85.700, 97.746),
    _deit3("base", 384, IN21K, 86.738, 98.114),
    _deit3("large", 224, IN21K, 86.982, 98.236),
    _deit3("large", 384, IN21K, 87.720, 98.512),
    _deit3("huge", 224, IN21K, 87.186, 98.260),
)
BY_NAME = {name: row for row in CHECKPOINTS for name in row.names}


def list_models(pattern: str | None = None) -> list[str]:
    """Returns the names of all rows, or of those that `find` knows by a name matching `pattern` (`*`, `?`)."""
    return [row.name for row in CHECKPOINTS if pattern is None or fnmatch.filter(row.names, pattern)]


def find(name: str) -> Checkpoint:
    """Returns the row with that name, alias, hub id, URL or file name.

    Raises:
        ValueError: if there is none, suggesting similar names.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    hint = did_you_mean(name, BY_NAME, limit=3) or " `tfdeit list` shows all."
    raise ValueError(f"Expected the name of a checkpoint of the zoo. Received: {name!r}.{hint}")


def markdown() -> str:
    """Returns the table of docs/zoo.md."""
    lines = [
        "| name | on the hub | pixels | params (M) | MACs (G) | top-1 | top-5 | measured with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in CHECKPOINTS:
        config, accuracy = row.config(), row.accuracy or ("", "", "")
        sizes = (config.image_size, f"{config.num_params / 1e6:.2f}", f"{config.macs / 1e9:.2f}")
        cells = (f"`{row.name}`", row.hub_id or "", *sizes, *accuracy)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def renew_table(text: str) -> str:
    """Returns `text` with the table between `MARKS` updated."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"Expected a line {MARKS[0].strip()!r}, and {MARKS[1].strip()!r} below it. Received: neither.")
    return before + begin + markdown() + end + after


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renew_table(path.read_text(encoding="utf-8")), encoding="utf-8")
