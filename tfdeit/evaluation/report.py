"""Reports of an evaluation: tables for the terminal and files with charts, beside the published figures."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfdeit import zoo
from tfdeit.checkpoint.port import PROVENANCE
from tfdeit.evaluation.figures import Evaluation
from tfdeit.presentation.charts import heat_map, reliability_diagram
from tfdeit.presentation.terminal import counted, table
from tfdeit.protocols import PROTOCOLS

SHOWN = 20  # classes in the table; if there are more, those with the lowest recall


def matching_protocols(processor, image_size: int) -> list[str]:
    """Returns the published protocols that resize and crop as `processor` does."""
    own = {"do_center_crop": False} | processor.to_dict()  # ViT's files leave it out
    return [name for name in PROTOCOLS if processor.with_protocol(name, image_size).to_dict() == own]


def published(name: str, config) -> dict | None:
    """Returns the published top-1 and top-5 accuracies (fractions) of a model and their protocol; None if unknown.

    Args:
        name: the model's name; or a directory that `tfdeit port` wrote, whose config names its row of the zoo.
        config: the model's config.
    """
    row = zoo.find(name).to_dict() if name in zoo.BY_NAME else config.extra.get(PROVENANCE, {}).get("checkpoint", {})
    if not row.get("top1") or row["classes"] != config.num_labels:  # a fine-tuned model keeps its provenance
        return None
    return {
        "top1": row["top1"] / 100,
        "top5": row["top5"] / 100,
        "protocol": row["accuracy_protocol"],
        "data": "ImageNet-1k, 50000 images",
    }


def class_rows(evaluation: Evaluation, id2label: Mapping[int, str]) -> list[dict]:
    """Returns index, label, count, precision and recall of each class that has images or was predicted."""
    return [
        {"index": index, "label": id2label[index], **figures}
        for index, figures in enumerate(evaluation.per_class)
        if figures["count"] or figures["precision"] is not None
    ]


def write(folder: Path, report: dict, classes: list[dict], evaluation, failures: list[tuple]):
    """Writes evaluation.json, the tables classes.csv, confusions.csv and failures.csv, and the charts."""
    labels = {row["index"]: row["label"] for row in classes}
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def create(name):
        return (folder / name).open("w", encoding="utf-8", errors="surrogateescape", newline="")

    with create("classes.csv") as file:
        writer = csv.DictWriter(file, classes[0])
        writer.writeheader()
        writer.writerows(classes)
    confusion = evaluation.confusion
    pairs = np.argwhere(confusion * (1 - np.eye(len(confusion), dtype=int)))
    with create("confusions.csv") as file:
        rows = csv.writer(file)
        rows.writerow(["class", "answer", "images"])
        for row, column in sorted(pairs.tolist(), key=lambda pair: -confusion[tuple(pair)]):
            rows.writerow([labels[row], labels[column], confusion[row, column]])
    with create("failures.csv") as file:
        csv.writer(file).writerows([("index", "name", "reason"), *failures])
    where = f"{os.path.basename(report['model'].rstrip('/'))} on {data_name(report)}"
    draw(folder, where, evaluation, labels)


def draw(folder: Path, where: str, evaluation: Evaluation, labels: Mapping[int, str]):
    """Writes confusion.png, with the classes that have images, and reliability.png."""
    confusion = evaluation.confusion
    there = np.flatnonzero(confusion.sum(axis=1))
    columns, names = confusion[np.ix_(there, there)], [labels[i] for i in there.tolist()]
    others = confusion[there].sum(axis=1, keepdims=True) - columns.sum(axis=1, keepdims=True)
    answers = names
    if others.any():
        columns, answers = np.concatenate([columns, others], axis=1), [*names, "other classes"]
    title = f"Confusion of {where}: {evaluation.top1:.1%} of {counted(evaluation.count, 'image')} right"
    heat_map(columns, names, answers, title, "predicted class", "true class").save(folder / "confusion.png")
    counts, right, confidence = evaluation.bins
    full = np.maximum(counts, 1)
    title = f"Calibration of {where}: ECE {evaluation.ece:.3f}"
    reliability_diagram(counts, right / full, confidence / full, title).save(folder / "reliability.png")


def data_name(report: dict) -> str:
    """Returns the name of the data and their split, such as "photos val"."""
    return " ".join(filter(None, (report["data"], report["split"])))


def describe(report: dict, classes: list[dict], rate: float | None) -> str:
    """Returns a table of the figures, beside the published ones, and a table of the classes."""
    known, protocols = report["published"], report["protocols"]
    preprocessing = f"protocol {'/'.join(protocols)}" if protocols else "the model's own preprocessing"
    head = "" if report["head"] == "both" else f", {report['head']} head"
    images = counted(report["images"], "image")
    heading = [f"{report['model']} on {data_name(report)}: {images}, {preprocessing}{head}"]
    figures = {
        "top-1 accuracy": [f"{report['top1']:.2%}"],
        "top-5 accuracy": [f"{report['top5']:.2%}"],
        "cross-entropy": [f"{report['loss']:.4f}"],
        "calibration error (ECE)": [f"{report['ece']:.4f}"],
        "images/s": [f"{rate:.1f}" if rate else "-"],
    }
    if known:
        heading.append(f"published: {known['data']}, protocol {known['protocol']}")
        for figure in figures.values():
            figure.append("")
        figures["top-1 accuracy"][1], figures["top-5 accuracy"][1] = f"{known['top1']:.2%}", f"{known['top5']:.2%}"
    columns = ["", "measured", "published"] if known else ["", "measured"]

    classes = [row for row in classes if row["count"]]
    title = "by class"
    if len(classes) > SHOWN:
        title = f"the {SHOWN} of {len(classes)} classes with the lowest recall"
        classes = sorted(classes, key=lambda row: row["recall"])[:SHOWN]
    cells = []
    for row in classes:
        shares = ("-" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision"))
        cells.append([row["label"], str(row["count"]), *shares])
    overall = table(columns, [[name, *row] for name, row in figures.items()])
    return "\n".join([*heading, overall, "", table(["class", "images", "recall", "precision"], cells, title)])
