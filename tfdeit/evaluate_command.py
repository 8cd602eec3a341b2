"""The command `evaluate`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import csv
import hashlib
import json
import os
import sys
import time
import zipfile
from pathlib import Path

from tfdeit.arguments import PROTOCOLS, add_dtype, add_model, positive
from tfdeit.commands import load_classifier, progress, silenced_stderr

SHOWN = 20  # classes in a table; those with the lowest recall, if there are more
SAVE_SECONDS = 10.0  # between two states on the disk
STATE = "state.npz"


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
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument(
        "-o", "--output", metavar="DIR", help="new or empty directory for tables, charts, and the state of --resume"
    )
    evaluate.add_argument("--resume", action="store_true", help="go on where the evaluation in DIR was interrupted")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluates a classifier; prints figures and classes, and writes them with charts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return measure(args)
    except (OSError, ValueError) as error:
        print(f"tfdeit evaluate: error: {error}", file=sys.stderr)
        return 2


def measure(args: argparse.Namespace) -> int:
    """Does what `run_evaluate` says, and raises what it reports."""
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
        from tfdeit.labels import match_classes
        from tfdeit.models import TFDeiTForImageClassificationWithTeacher

        pipeline = eval_pipeline(source, args.batch_size, processor, loading=Loading(on_error="skip"))

    config = model.config
    if config.num_labels < 2:
        raise ValueError(f"Expected a classifier of two classes or more. Received: one of {config.num_labels} classes.")
    if args.head != "both" and not isinstance(model, TFDeiTForImageClassificationWithTeacher):
        raise ValueError(f"Expected a model with two heads for --head {args.head}. Received: a {type(model).__name__}.")
    indices, note = match_classes(source.class_names, config.id2label)
    if note:
        print(f"tfdeit evaluate: {note}", file=sys.stderr)
    source.labels = np.array(indices, "int32")[source.labels]
    run = Run(args, model, pipeline, processor)

    with progress(len(source), "evaluating", run.images) as advance:
        watch = Stopwatch(run.images, advance)

        def on_batch(evaluation, step):
            run.update(evaluation, step)
            watch.update(run.images)

        try:
            evaluation = evaluate(model, pipeline, on_batch, args.head, run.start)
            run.save()
        finally:
            for _, name, reason in run.failures:
                print(f"tfdeit evaluate: {name}: {reason}", file=sys.stderr)
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
    if args.json:
        print(json.dumps({**report, "images_per_second": watch.rate, "classes": classes}))
    else:
        print_report(report, classes, watch.rate)
    if run.failures:
        print(f"tfdeit evaluate: {len(run.failures)} of {len(source)} images could not be read", file=sys.stderr)
    return 1 if run.failures else 0


class Run:
    """How far an evaluation is, in memory and in the state file of its directory, if it has one.

    Args:
        args: of the command.
        model: the classifier.
        pipeline: of the images, its labels those of the model.
        processor: what makes pixel values.

    Attributes:
        start: the evaluation and the number of the batch to go on with; None to begin.

    Raises:
        ValueError: if the directory holds what is not to be overwritten, or another evaluation.
    """

    def __init__(self, args, model, pipeline, processor):
        self.pipeline, self.start, self.path, self._found, self._saved = pipeline, None, None, {}, time.monotonic()
        if not args.output:
            return
        self.path = Path(args.output, STATE)
        self.identity = identity(args, model, pipeline, processor)
        if args.resume and self.path.exists():
            self._load()
        elif self.path.parent.is_dir() and any(not p.name.startswith(".") for p in self.path.parent.iterdir()):
            raise ValueError(
                f"Expected a new or empty directory to write to. Received: {args.output!r}. --resume goes on with the "
                "evaluation there, if it is one of the same model, data and options."
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def images(self) -> int:
        """How many images have been evaluated."""
        return self.start[0].count if self.start else 0

    @property
    def failures(self) -> list[tuple[int, str, str]]:
        """Index, name and reason of the images that could not be read."""
        return sorted((self._found | {failure.index: tuple(failure) for failure in self.pipeline.failures}).values())

    def update(self, evaluation, step: int):
        """Notes what is done; saves it if the last time is long ago.

        Nothing is saved at an interrupt: it may come in the middle of a batch, half of which is counted.
        """
        self.start = evaluation, step
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self):
        """Writes the state file, which is the old one or the new one at any time."""
        self._saved = time.monotonic()
        if not (self.path and self.start):
            return

        import numpy as np

        from tfdeit.checkpoint.writers import complete_file

        evaluation, step = self.start
        about = json.dumps({"identity": self.identity, "step": step, "failures": self.failures})
        with complete_file(self.path) as part:
            np.savez_compressed(part, about=np.array(about), **vars(evaluation))

    def _load(self):
        import numpy as np

        from tfdeit.evaluation import Evaluation

        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                values = dict(arrays)
                about = json.loads(str(values.pop("about")))
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected the state of an evaluation. Received: {self.path}, damaged ({error})."
            ) from None
        theirs = about["identity"]
        different = [name for name in self.identity if self.identity[name] != theirs.get(name)]
        if different:
            raise ValueError(
                f"Expected what {self.path.parent} was begun with: "
                f"{', '.join(f'{name} {theirs.get(name)}' for name in different)}. Received: "
                f"{', '.join(f'{name} {self.identity[name]}' for name in different)}. Use another directory."
            )
        values = {name: value if value.ndim else value.item() for name, value in values.items()}
        self.start = Evaluation(**values), about["step"]
        self._found = {failure[0]: tuple(failure) for failure in about["failures"]}


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


def identity(args: argparse.Namespace, model, pipeline, processor) -> dict[str, str]:
    """Returns what has to be the same for an evaluation to go on: weights, images, preprocessing, batches and head."""
    from keras import ops

    weights, data = hashlib.sha256(), hashlib.sha256()
    for variable in model.weights:
        weights.update(ops.convert_to_numpy(variable).tobytes())
    data.update(json.dumps([os.path.realpath(args.data), args.split]).encode())
    data.update(pipeline.source.labels.tobytes())
    return {
        "model": weights.hexdigest()[:16],
        "data": f"{len(pipeline.source)} images ({data.hexdigest()[:16]})",
        "preprocessing": json.dumps(processor.to_dict(), sort_keys=True),
        "batch size": str(args.batch_size),
        "head": args.head,
    }


def matching_protocols(processor, image_size: int) -> list[str]:
    """Returns the published protocols that resize and crop as a processor does."""
    own = processor.to_dict()
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
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, classes[0])
        writer.writeheader()
        writer.writerows(classes)
    confusion = evaluation.confusion
    pairs = np.argwhere(confusion * (1 - np.eye(len(confusion), dtype=int)))
    with (folder / "confusions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "answer", "images"])
        for row, column in sorted(pairs.tolist(), key=lambda pair: -confusion[tuple(pair)]):
            writer.writerow([labels[row], labels[column], confusion[row, column]])
    with (folder / "failures.csv").open("w", encoding="utf-8", newline="") as file:
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


def print_report(report: dict, classes: list[dict], rate: float | None):
    """Prints the figures, the published ones beside them, and the classes."""
    from rich.console import Console
    from rich.table import Table

    known, protocols = report["published"], report["protocols"]
    preprocessing = f"protocol {'/'.join(protocols)}" if protocols else "its own preprocessing"
    where = " ".join(filter(None, (report["data"], report["split"])))
    head = "" if report["head"] == "both" else f", {report['head']} head"
    figures = Table(box=None)
    images = f"{report['images']} image{'s' * (report['images'] != 1)}"
    columns = ["", f"{images}, {preprocessing}{head}"]
    if known:
        columns.append(f"published: {known['data']}, protocol {known['protocol']}")
    for column in columns:
        figures.add_column(column, justify="right" if column else "left")
    for name, key in (("top-1 accuracy", "top1"), ("top-5 accuracy", "top5")):
        figures.add_row(name, f"{report[key]:.2%}", f"{known[key]:.2%}" if known else None)
    figures.add_row("cross-entropy", f"{report['loss']:.4f}")
    figures.add_row("calibration error (ECE)", f"{report['ece']:.4f}")
    figures.add_row("images/s", f"{rate:.1f}" if rate else "-")

    classes = [row for row in classes if row["count"]]
    title = "by class"
    if len(classes) > SHOWN:
        title = f"the {SHOWN} of {len(classes)} classes with the lowest recall"
        classes = sorted(classes, key=lambda row: row["recall"])[:SHOWN]
    table = Table(box=None, title=title, title_justify="left")
    table.add_column("class")
    for column in ("images", "recall", "precision"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in classes:
        shares = ("-" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision"))
        table.add_row(row["label"], str(row["count"]), *shares)
    console = Console(width=None if sys.stdout.isatty() else 120)
    print(f"{report['model']} on {where}")
    console.print(figures)
    console.print()
    console.print(table)
    if known and known["protocol"] not in protocols:
        print(
            f"tfdeit evaluate: the published accuracy was measured with another protocol; --protocol "
            f"{known['protocol']} compares",
            file=sys.stderr,
        )
