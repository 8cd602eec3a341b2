"""What the commands do. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import csv
import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tfdeit.arguments import PROTOCOLS
from tfdeit.hints import did_you_mean
from tfdeit.terminal import Failure, complain, note, progress, result, silenced_stderr, table

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def run_predict(args: argparse.Namespace) -> int:
    """Classifies images: decodes a batch in threads while the model works on the one before."""
    if args.json and args.csv:
        raise ValueError("Expected one of --json and --csv. Received: both.")
    paths, failed = find_images(args.paths)
    if not paths:
        return report_failures(failed or ["no images found"])
    report_failures(failed)
    model, processor = load_classifier(args.model, args.protocol, args.dtype)

    import numpy as np

    from tfdeit.memory import fitting_batch, run_split

    config = model.config
    height, width = config.image_hw
    most = fitting_batch(config, args.batch_size, args.dtype)
    if most < args.batch_size:
        note(f"{most} images at a time, as no more fit into memory")
    note(
        f"{args.model}: {type(model).__name__}, {model.count_params() / 1e6:.1f} M parameters, {width}x{height} "
        f"pixels, {config.num_labels} classes; protocol {args.protocol or 'its own'}"
    )
    write = csv_writer() if args.csv else line_writer(paths)
    with ThreadPoolExecutor() as pool, progress(len(paths), "classifying") as advance:
        for batch in prefetched(pool, lambda path: prepare(processor, path), paths, args.batch_size):
            usable = [(path, pixels) for path, pixels, reason in batch if not reason]
            report_failures(reasons := [f"{path}: {reason}" for path, _, reason in batch if reason])
            failed += reasons
            if usable:
                images = np.stack([pixels for _, pixels in usable])
                parts, most = run_split(lambda part: model.predict_on_batch(part).logits, images, most)
                logits = np.concatenate(parts).astype("float32")
                for (path, _), scores in zip(usable, softmax(logits), strict=True):
                    best = np.argsort(-scores, kind="stable")[: args.top_k]
                    write(path, [(config.id2label[int(i)], int(i), float(scores[i])) for i in best])
            advance(len(batch))
    return 1 if failed else 0


def run_list(args: argparse.Namespace) -> int:
    """Prints the rows of the zoo whose names match."""
    from tfdeit import zoo

    rows = [zoo.find(name).to_dict() for name in zoo.list_models(args.pattern)]
    if not rows:
        hint = did_you_mean(args.pattern, zoo.BY_NAME)
        raise Failure(f"Expected a pattern of names. Received: {args.pattern!r}, which none matches.{hint}")
    cells = []
    for row in rows:
        result(row, None)
        accuracy = [f"{row[key]:.1f}" if row[key] else "-" for key in ("top1", "top5")]
        sizes = [str(row["image_size"]), f"{row['params'] / 1e6:.1f} M", f"{row['macs'] / 1e9:.2f} G"]
        cells.append([row["name"], *sizes, *accuracy, row["accuracy_protocol"] or "-"])
    if not args.json:
        print(table(["name", "pixels", "params", "MACs", "top-1", "top-5", "measured with"], cells))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Prints the model card of a row of the zoo."""
    from tfdeit import zoo

    row = zoo.find(args.name).to_dict()
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
    card = "\n".join(f"  {name:11}{value}" for name, value in facts.items() if value)
    use = f'inference_model({row["name"]!r}, "photo.jpg")'
    if not row["classes"]:
        use = f"get_model({row['name']!r}).extract_feat(pixel_values)"
    result(row, f"{row['name']}\n{card}\n\n  from tfdeit import {use.partition('(')[0]}\n  {use}")
    return 0


def run_port(args: argparse.Namespace) -> int:
    """Converts a checkpoint, and compares it with the original if asked to."""
    from tfdeit.checkpoint import listing
    from tfdeit.checkpoint.port import port
    from tfdeit.config import ViTConfig

    overrides = dict(args.overrides)
    ViTConfig.check_names(overrides)
    source = port(args.source, args.output, args.to, lambda n: progress(n, "porting"), args.name, **overrides)
    params = source.config.num_params
    about = {"output": args.output, "architecture": source.architecture, "params": params, "format": source.format}
    result(
        about | {"initialised": sorted(source.initialised), "unused": sorted(source.unused)},
        f"{args.output}: {source.architecture} of {params / 1e6:.1f} M parameters, from {source.format}",
    )
    for kind, names in (("newly initialised, to be trained", source.initialised), ("unused", source.unused)):
        if names:
            note(f"{kind}: {listing(names)}")
    if not args.verify:
        return 0

    start_keras()
    from tfdeit import parity

    try:
        report = parity.verify(source, args.output)
    except (parity.NoOracle, ValueError) as error:
        raise Failure(f"not verified: {error}") from error
    result(report, f"{parity.table(report)}\nreport: {parity.write_report(report, args.output)}")
    return 0 if report["passed"] else 1


def run_pack(args: argparse.Namespace) -> int:
    """Writes the images of a folder, a zip or a list as records."""
    with silenced_stderr():
        from tfdeit.data.records import RecordSource, pack
        from tfdeit.data.sources import open_source

    source = open_source(args.source, args.split)
    with progress(len(source), "packing") as advance:
        skipped = pack(source, args.output, args.on_error, args.shard_mb * 2**20, advance)
    packed = RecordSource(args.output)
    report_failures(skipped)
    images, classes, files = len(packed), len(packed.class_names), len(packed.files)
    result(
        {"output": args.output, "images": images, "classes": classes, "files": files, "skipped": len(skipped)},
        f"{args.output}: {images} images of {classes} classes in {files} file{'s' * (files > 1)}",
    )
    if skipped:
        complain(f"{len(skipped)} skipped")
    return 1 if skipped else 0


def run_augment(args: argparse.Namespace) -> int:
    """Draws the augmentations of an image, or of two, as a labelled grid."""
    with silenced_stderr():
        from tfdeit.data.grid import augmentation_grid

        page = augmentation_grid(args.images, args.auto_augment, args.size, args.seed)
    page.save(args.output)
    result(
        {"output": args.output, "width": page.width, "height": page.height},
        f"{args.output}: {page.width}x{page.height} pixels",
    )
    return 0


def run_completion(args: argparse.Namespace) -> int:
    """Prints what makes a shell complete our commands."""
    import argcomplete

    script = argcomplete.shellcode(["tfdeit"], shell=args.shell)
    result({"shell": args.shell, "script": script}, script)
    return 0


def report_failures(reasons: list[str]) -> int:
    """Prints what could not be used on stderr; returns the exit status for that."""
    for reason in reasons:
        complain(reason)
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


def prepare(processor, path: str):
    """Returns (path, pixel values (H, W, 3), None), or (path, None, reason) for an image that cannot be used."""
    from tfdeit.images import ImageError

    try:
        return path, processor(path, return_tensors="np").pixel_values[0], None
    except ImageError as error:
        return path, None, str(error).removeprefix(f"{path}: ")


def prefetched(pool: ThreadPoolExecutor, function, items: list, size: int) -> Iterator[list]:
    """Yields `function` of all items in lists of `size`; the pool works on one list ahead."""
    waiting: list[Future] = []
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


def line_writer(paths: list[str]):
    """Prints a line an image, or a JSON object: its path and its classes."""
    width = min(max(map(len, paths)), 60)

    def write(path, classes):
        predictions = [{"label": label, "index": index, "probability": score} for label, index, score in classes]
        shown = "  ".join(f"{label} {score:.1%}" for label, _, score in classes)
        result({"path": path, "predictions": predictions}, f"{path:{width}}  {shown}")

    return write


def csv_writer():
    """Prints a header, and a CSV line a class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "index", "probability"])

    def write(path, classes):
        writer.writerows([path, rank, *values] for rank, values in zip(itertools.count(1), classes, strict=False))
        sys.stdout.flush()

    return write
