"""The command `evaluate`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import csv
import json
import os
import time
from pathlib import Path

from tfdeit.arguments import PROTOCOLS, add_dtype, add_model, positive
from tfdeit.commands import load_classifier, report_failures
from tfdeit.terminal import complain, note, progress, result, silenced_stderr, table

SHOWN = 20  # classes in a table; those with the lowest recall, if there are more


def add_parser(commands):
    """Adds the parser of `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure the accuracy of a model",
        description="Measures accuracy, loss and calibration of a classifier on labelled images, class by class. "
        "Images that cannot be read are named on stderr and left out, and the exit status is 1.",
    )
    add_model(evaluate)
    add_dtype(evaluate)
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder of class folders, zip of one, list (.csv, .jsonl) of path and label, or what `tfdeit pack` wrote",
    )
    evaluate.add_argument("--split", metavar="NAME", help="folder inside SOURCE, such as val or test")
    evaluate.add_argument(
        "--head",
        choices=("both", "class", "distillation"),
        default="both",
        help="of a distilled model: the mean of its heads, or one of them (%(default)s)",
    )
    evaluate.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    evaluate.add_argument(
        "-o", "--output", metavar="DIR", help="new or empty directory for tables, charts, and the state of --resume"
    )
    evaluate.add_argument("--resume", action="store_true", help="go on where the evaluation in DIR was interrupted")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluates a classifier; prints figures and classes, and writes them with charts."""
    if args.resume and not args.output:
        raise ValueError("Expected --output with --resume: the directory of the evaluation to go on with.")
    with silenced_stderr():  # TensorFlow starts for records, and for the pipeline if Keras has another backend
        from tfdeit.data.sources import open_source

        source = open_source(args.data, args.split)
    model, processor = load_classifier(args.model, args.protocol, args.dtype)
    with silenced_stderr():
        import numpy as np

        from tfdeit.data.loading import Loading
        from tfdeit.data.pipeline import eval_pipeline
        from tfdeit.evaluation import evaluate
        from tfdeit.evaluation_state import EvaluationState
        from tfdeit.labels import match_classes
        from tfdeit.models import TFDeiTForImageClassificationWithTeacher

        pipeline = eval_pipeline(source, args.batch_size, processor, loading=Loading(on_error="skip"))

    config = model.config
    if config.num_labels < 2:
        raise ValueError(f"Expected a classifier of two classes or more. Received: one of {config.num_labels} classes.")
    if args.head != "both" and not isinstance(model, TFDeiTForImageClassificationWithTeacher):
        raise ValueError(f"Expected a model with two heads for --head {args.head}. Received: a {type(model).__name__}.")
    indices, how = match_classes(source.class_names, config.id2label)
    if how:
        note(how)
    source.labels = np.array(indices, "int32")[source.labels]
    run = EvaluationState(args, model, pipeline, processor)

    with progress(len(source), "evaluating", run.images) as advance:
        watch = Stopwatch(run.images, advance)

        def on_batch(evaluation, step):
            run.update(evaluation, step)
            watch.update(run.images)

        try:
            evaluation = evaluate(model, pipeline, on_batch, args.head, run.start)
            run.save()
        finally:
            report_failures([f"{name}: {reason}" for _, name, reason in run.failures])
    report = {
        **{"model": args.model, "data": args.data, "split": args.split, "head": args.head},
        "dtype": args.dtype,
        "protocols": matching_protocols(processor, config.image_hw[0]),
        **evaluation.to_json(),
        "failed": len(run.failures),
        "published": published(args.model, config),
    }
    classes = [
        {"index": index, "label": config.id2label[index], **figures}
        for index, figures in enumerate(evaluation.per_class)
        if figures["count"] or figures["precision"] is not None
    ]
    if args.output:
        write(Path(args.output), report, classes, evaluation, run.failures)
    values = {**report, "images_per_second": watch.rate, "classes": classes}
    result(values, describe(report, classes, watch.rate))
    known = report["published"]
    if known and known["protocol"] not in report["protocols"]:
        note(f"the published accuracy was measured with another protocol; --protocol {known['protocol']} compares")
    if run.failures:
        complain(f"{len(run.failures)} of {len(source)} images could not be read")
    return 1 if run.failures else 0


class Stopwatch:
    """Images per second since the first batch, which waits for compilation."""

    def __init__(self, images, advance):
        self.images, self.advance, self.begin = images, advance, None
        self.rate = None  # unknown before the second batch

    def update(self, images: int):
        """Notes how many images there are by now."""
        self.advance(images - self.images)
        now, self.images = time.monotonic(), images
        if self.begin is None:
            self.begin = now, images
        else:
            self.rate = (images - self.begin[1]) / max(now - self.begin[0], 1e-9)


def matching_protocols(processor, image_size: int) -> list[str]:
    """Returns the published protocols that resize and crop as a processor does."""
    own = {"do_center_crop": False} | processor.to_dict()  # files of ViT leave it out
    return [name for name in PROTOCOLS if processor.with_protocol(name, image_size).to_dict() == own]


def published(name: str, config) -> dict | None:
    """Returns the published top-1 and top-5 accuracy (fractions) of a model, and their protocol; None if unknown.

    Args:
        name: the model's; a directory that `tfdeit port` wrote says which row of the zoo it is.
        config: of the model.
    """
    from tfdeit import zoo
    from tfdeit.checkpoint.port import PROVENANCE

    row = zoo.find(name).to_dict() if name in zoo.BY_NAME else config.extra.get(PROVENANCE, {}).get("checkpoint", {})
    if not row.get("top1") or row["classes"] != config.num_labels:  # what was fine-tuned keeps its provenance
        return None
    return {
        "top1": row["top1"] / 100,
        "top5": row["top5"] / 100,
        "protocol": row["accuracy_protocol"],
        "data": "ImageNet-1k, 50000 images",
    }


def write(folder: Path, report: dict, classes: list[dict], evaluation, failures: list[tuple]):
    """Writes all results into the directory of the evaluation."""
    import numpy as np

    from tfdeit.charts import heat_map, reliability_diagram

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

    there = np.flatnonzero(confusion.sum(axis=1))
    columns, names = confusion[np.ix_(there, there)], [labels[i] for i in there.tolist()]
    others = confusion[there].sum(axis=1, keepdims=True) - columns.sum(axis=1, keepdims=True)
    answers = names
    if others.any():
        columns, answers = np.concatenate([columns, others], axis=1), [*names, "other classes"]
    title = f"{os.path.basename(report['model'].rstrip('/'))}: {report['top1']:.1%} of {report['images']} images"
    heat_map(columns, names, answers, title, "the model's answer", "class").save(folder / "confusion.png")
    counts, right, confidence = evaluation.bins
    full = np.maximum(counts, 1)
    title = f"Calibration error {report['ece']:.3f}"
    reliability_diagram(counts, right / full, confidence / full, title).save(folder / "reliability.png")


def describe(report: dict, classes: list[dict], rate: float | None) -> str:
    """Returns tables of the figures, the published ones beside them, and of the classes."""
    known, protocols = report["published"], report["protocols"]
    preprocessing = f"protocol {'/'.join(protocols)}" if protocols else "its own preprocessing"
    where = " ".join(filter(None, (report["data"], report["split"])))
    head = "" if report["head"] == "both" else f", {report['head']} head"
    images = f"{report['images']} image{'s' * (report['images'] != 1)}"
    heading = [f"{report['model']} on {where}: {images}, {preprocessing}{head}"]
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
    parts = [
        *heading,
        table(columns, [[name, *row] for name, row in figures.items()]),
        "",
        table(["class", "images", "recall", "precision"], cells, title),
    ]
    return "\n".join(parts)
