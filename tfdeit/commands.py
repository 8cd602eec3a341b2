"""What the commands do. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import contextlib
import csv
import glob
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfdeit.arguments import PROTOCOLS

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PATIENCE = 2.0  # seconds before a progress bar appears


def run_predict(args: argparse.Namespace) -> int:
    """Classifies images: decodes a batch in threads while the model works on the one before."""
    paths, failed = find_images(args.paths)
    if not paths:
        return report_failures("predict", failed or ["no images found"])
    try:
        model, processor = load_classifier(args.model, args.protocol, args.dtype)
    except (OSError, ValueError) as error:
        print(f"tfdeit predict: error: {error}", file=sys.stderr)
        return 2

    import numpy as np

    from tfdeit.memory import fitting_batch, run_split

    config = model.config
    height, width = config.image_hw
    most = fitting_batch(config, args.batch_size)
    if most < args.batch_size:
        print(f"tfdeit predict: {most} images at a time, as no more fit into memory", file=sys.stderr)
    print(
        f"model {args.model}: {type(model).__name__}, {model.count_params() / 1e6:.1f} M parameters, {width}x{height} "
        f"pixels, {config.num_labels} classes; protocol {args.protocol or 'its own'}",
        file=sys.stderr,
    )
    write = WRITERS[args.format](paths)
    with ThreadPoolExecutor() as pool, progress(len(paths)) as advance:
        for batch in prefetched(pool, lambda path: prepare(processor, path), paths, args.batch_size):
            usable = [(path, pixels) for path, pixels, reason in batch if not reason]
            report_failures("predict", reasons := [f"{path}: {reason}" for path, _, reason in batch if reason])
            failed += reasons
            if usable:
                images = np.stack([pixels for _, pixels in usable])
                parts, most = run_split(lambda part: model.predict_on_batch(part).logits, images, most)
                logits = np.concatenate(parts).astype("float32")
                for (path, _), scores in zip(usable, softmax(logits), strict=True):
                    best = np.argsort(-scores, kind="stable")[: args.top_k]
                    write(path, [(config.id2label[int(i)], int(i), float(scores[i])) for i in best])
            sys.stdout.flush()
            advance(len(batch))
    return 1 if failed else 0


def run_list(args: argparse.Namespace) -> int:
    """Prints the rows of the zoo whose names match."""
    from tfdeit import zoo

    rows = [zoo.find(name).to_dict() for name in zoo.list_models(args.pattern)]
    if not rows:
        print(f"tfdeit list: no checkpoint matches {args.pattern!r}; without it, all are listed", file=sys.stderr)
        return 1
    if args.json:
        print("\n".join(map(json.dumps, rows)))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for header in ("pixels", "params", "MACs", "top-1", "top-5"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("measured with")
    for row in rows:
        accuracy = [f"{row[key]:.1f}" if row[key] else "-" for key in ("top1", "top5")]
        sizes = [str(row["image_size"]), f"{row['params'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f} G"]
        table.add_row(row["name"], *sizes, *accuracy, row["accuracy_protocol"] or "-")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Prints the model card of a row of the zoo."""
    from tfdeit import zoo

    try:
        row = zoo.find(args.name).to_dict()
    except ValueError as error:
        print(f"tfdeit info: error: {error}", file=sys.stderr)
        return 2
    pixels, source = row["image_size"], row["hub_id"] and f"https://huggingface.co/{row['hub_id']}"
    accuracy = "not published with its preprocessing"
    if row["top1"]:
        accuracy = f"{row['top1']}% top-1, {row['top5']}% top-5, measured with protocol {row['accuracy_protocol']}"
    facts = {
        "what": f"{row['title']}; {row['paper']}",
        "aliases": ", ".join(row["aliases"]),
        "trained on": row["data"],
        "input": f"{pixels}x{pixels} RGB, {row['patch_size']}-pixel patches, protocol {row['protocol']}",
        "output": f"{row['classes']} classes" if row["classes"] else "features",
        "size": f"{row['params'] / 1e6:.2f} M parameters, {row['macs'] / 1e9:.2f} G multiply-accumulates",
        "accuracy": accuracy,
        "licence": row["licence"],
        "hub": source,
        "file": row["url"] and f"{row['url']} (sha256 {row['sha256'] or 'not published'})",
    }
    print(row["name"])
    print("\n".join(f"  {name:11}{value}" for name, value in facts.items() if value))
    use = f'inference_model({row["name"]!r}, "photo.jpg")'
    if not row["classes"]:
        use = f"get_model({row['name']!r}).extract_feat(pixel_values)"
    print(f"\n  from tfdeit import {use.partition('(')[0]}\n  {use}")
    return 0


def run_port(args: argparse.Namespace) -> int:
    """Converts a checkpoint, and compares it with the original if asked to."""
    from tfdeit.checkpoint import listing
    from tfdeit.checkpoint.port import port
    from tfdeit.config import ViTConfig

    overrides = dict(args.overrides)
    try:
        ViTConfig.check_names(overrides)
        source = port(args.source, args.output, args.to, lambda n: progress(n, "porting"), args.name, **overrides)
    except (OSError, ValueError) as error:
        print(f"tfdeit port: error: {error}", file=sys.stderr)
        return 2
    size = source.config.num_params / 1e6
    print(f"{args.output}: {source.architecture} of {size:.1f} M parameters, from {source.format}")
    for kind, names in (("newly initialised, to be trained", source.initialised), ("unused", source.unused)):
        if names:
            print(f"tfdeit port: {kind}: {listing(names)}", file=sys.stderr)
    if not args.verify:
        return 0

    start_keras()
    from tfdeit.parity import NoOracle, table, verify, write_report

    try:
        report = verify(source, args.output)
    except (NoOracle, ValueError) as error:
        print(f"tfdeit port: not verified: {error}", file=sys.stderr)
        return 1
    print(f"{table(report)}\nreport: {write_report(report, args.output)}")
    return 0 if report["passed"] else 1


def run_pack(args: argparse.Namespace) -> int:
    """Writes the images of a folder, a zip or a list as records."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced_stderr():
        from tfdeit.data.records import RecordSource, pack
        from tfdeit.data.sources import open_source

    try:
        source = open_source(args.source, args.split)
        with progress(len(source), "packing") as advance:
            skipped = pack(source, args.output, args.on_error, args.shard_mb * 2**20, advance)
        packed = RecordSource(args.output)
    except (OSError, ValueError) as error:
        print(f"tfdeit pack: error: {error}", file=sys.stderr)
        return 2
    for reason in skipped:
        print(f"tfdeit pack: {reason}", file=sys.stderr)
    files = f"{len(packed.files)} file{'s' * (len(packed.files) > 1)}"
    print(f"{args.output}: {len(packed)} images of {len(packed.class_names)} classes in {files}")
    if skipped:
        print(f"tfdeit pack: {len(skipped)} skipped", file=sys.stderr)
    return 1 if skipped else 0


def run_augment(args: argparse.Namespace) -> int:
    """Draws the augmentations of an image, or of two, as a labelled grid."""
    try:
        with silenced_stderr():
            from tfdeit.data.grid import augmentation_grid

            page = augmentation_grid(args.images, args.auto_augment, args.size, args.seed)
        page.save(args.output)
    except (OSError, ValueError) as error:
        print(f"tfdeit augment: error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {page.width}x{page.height} pixels")
    return 0


def report_failures(command: str, reasons: list[str]) -> int:
    """Prints what a command could not use on stderr; returns the exit status for that."""
    for reason in reasons:
        print(f"tfdeit {command}: {reason}", file=sys.stderr)
    return 1 if reasons else 0


def find_images(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the paths that arguments stand for, in order, and a message for each that stands for none."""
    paths, failed = [], []
    for argument in arguments:
        if argument == "-":
            paths += [line for line in sys.stdin.read().splitlines() if line]
            continue
        found = [argument]
        if os.path.isdir(argument):
            files = (path for path in sorted(Path(argument).rglob("*")) if path.is_file())
            found = [str(path) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
        paths += found
        if not found:
            failed.append(f"{argument}: no images found")
    return paths, failed


def load_classifier(source: str, protocol: str | None, dtype: str = "float32"):
    """Returns the classifier, which stores and computes in `dtype`, and the image processor of a checkpoint.

    Raises:
        ValueError: if the checkpoint cannot be used.
        FileNotFoundError: if it has no preprocessor_config.json, and no protocol is given.
    """
    keras = start_keras()
    from tfdeit.checkpoint.files import find_directory
    from tfdeit.models import TFAutoModelForImageClassification
    from tfdeit.processing import AutoImageProcessor, protocol_processor

    directory = find_directory(source)
    model = TFAutoModelForImageClassification.from_pretrained(directory, dtype=dtype)
    if keras.backend.backend() == "tensorflow":
        model.compile(jit_compile=False)  # XLA compiles anew for a smaller last batch, longer than it saves
    size = model.config.image_hw[0]
    try:
        processor = AutoImageProcessor.from_pretrained(source)
    except FileNotFoundError:
        if protocol is None:
            raise FileNotFoundError(
                f"Expected a preprocessor_config.json in {directory}. Received none: add the checkpoint's, or pass "
                f"--protocol with one of {', '.join(PROTOCOLS)}."
            ) from None
        return model, protocol_processor(protocol, size)
    return model, processor.with_protocol(protocol, size) if protocol else processor


def start_keras():
    """Imports Keras, without what its backend says of this machine."""
    with silenced_stderr():
        import keras

        keras.ops.zeros(1)  # finds the devices
    return keras


@contextlib.contextmanager
def silenced_stderr():
    """Drops what native code writes on stderr: TensorFlow logs its start there whatever TF_CPP_MIN_LOG_LEVEL says."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def prepare(processor, path: str):
    """Returns (path, pixel values (H, W, 3), None), or (path, None, reason) for an image that cannot be used."""
    from tfdeit.images import ImageError

    try:
        return path, processor(path, return_tensors="np").pixel_values[0], None
    except ImageError as error:
        return path, None, str(error).removeprefix(f"{path}: ")


def prefetched(pool: ThreadPoolExecutor, function, items: list, size: int) -> Iterator[list]:
    """Yields `function` of all items in lists of `size`; the pool works on one list ahead."""
    waiting = None
    for start in range(0, len(items), size):
        futures = [pool.submit(function, item) for item in items[start : start + size]]
        if waiting:
            yield [future.result() for future in waiting]
        waiting = futures
    yield [future.result() for future in waiting]


def softmax(logits):
    """Returns the probabilities of (B, N) logits, float64."""
    import numpy as np

    logits = np.asarray(logits, "float64")
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


@contextlib.contextmanager
def progress(total: int, action: str = "classifying", done: int = 0):
    """Gives a function that counts items; it draws a bar on an attended stderr once `PATIENCE` seconds are over."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", TimeRemainingColumn())
    # Results that go to the same terminal are printed above the bar.
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), transient=True)
    task, start = bar.add_task(action, total=total, completed=done, rate=""), time.monotonic()

    def advance(count: int):
        new = bar.tasks[0].completed + count - done
        bar.update(task, advance=count, rate=f"{new / max(time.monotonic() - start, 1e-9):.0f}/s")
        if time.monotonic() - start > PATIENCE and not bar.live.is_started:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def text_writer(paths: list[str]):
    """Prints a line an image: its path and its classes."""
    width = min(max(map(len, paths)), 60)

    def write(path, classes):
        print(f"{path:{width}}  " + "  ".join(f"{label} {score:.1%}" for label, _, score in classes))

    return write


def json_writer(paths: list[str]):
    """Prints a JSON object an image."""

    def write(path, classes):
        predictions = [{"label": label, "index": index, "probability": score} for label, index, score in classes]
        print(json.dumps({"path": path, "predictions": predictions}))

    return write


def csv_writer(paths: list[str]):
    """Prints a header, and a CSV line a class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "index", "probability"])

    def write(path, classes):
        writer.writerows([path, rank, *values] for rank, values in zip(itertools.count(1), classes, strict=False))

    return write


WRITERS = {"text": text_writer, "json": json_writer, "csv": csv_writer}
