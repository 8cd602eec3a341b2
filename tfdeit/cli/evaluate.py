"""The command `evaluate`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import time
from pathlib import Path

from tfdeit.cli.arguments import Parser, add_dtype, add_model, positive
from tfdeit.cli.photos import report_failures
from tfdeit.inference.classifier import load_classifier
from tfdeit.presentation.terminal import complain, counted, note, progress, result, silenced_stderr

DESCRIPTION = (
    "Measures accuracy, loss and calibration of a classifier on labelled images, class by class. Images that cannot be "
    "read are named on stderr and left out, and the exit status is 1."
)
EXAMPLES = """
tfdeit evaluate --model run/model --data photos --split val
tfdeit evaluate --model deit_small_patch16_224 --data imagenet/val --protocol fb -o results
tfdeit evaluate --model deit_small_patch16_224 --data imagenet/val --protocol fb -o results --resume
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `evaluate`."""
    add_model(parser)
    add_dtype(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder of class folders, zip of one, list (.csv, .jsonl) of path and label, or what `tfdeit pack` wrote",
    )
    parser.add_argument("--split", metavar="NAME", help="folder inside SOURCE, such as val or test")
    parser.add_argument(
        "--head",
        choices=("both", "class", "distillation"),
        default="both",
        help="of a distilled model: the mean of its heads, or one of them (%(default)s)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="new or empty directory for tables, charts, and the state of --resume"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the evaluation in DIR was interrupted")


def run(args: argparse.Namespace) -> int:
    """Evaluates a classifier; prints figures and classes, and writes them with charts."""
    if args.resume and not args.output:
        raise ValueError("Expected --output with --resume: the directory of the evaluation to go on with.")
    with silenced_stderr():  # TensorFlow starts for records, and for the pipeline if Keras has another backend
        from tfdeit.data.sources import open_source

        source = open_source(args.data, args.split)
    model, processor = load_classifier(args.model, args.protocol, args.dtype)
    with silenced_stderr():
        from tfdeit.data.loading import Loading
        from tfdeit.data.pipeline import eval_pipeline
        from tfdeit.evaluation import report
        from tfdeit.evaluation.state import EvaluationState

        pipeline = eval_pipeline(source, args.batch_size, processor, loading=Loading(on_error="skip"))

    prepare(source, model, args.head)
    state = EvaluationState(args, model, pipeline, processor)
    evaluation, rate = measure(model, pipeline, args.head, state)
    figures = {
        **{"model": args.model, "data": args.data, "split": args.split, "head": args.head},
        "dtype": args.dtype,
        "protocols": report.matching_protocols(processor, model.config.image_hw[0]),
        **evaluation.to_json(),
        "failed": len(state.failures),
        "published": report.published(args.model, model.config),
    }
    classes = report.class_rows(evaluation, model.config.id2label)
    if args.output:
        report.write(Path(args.output), figures, classes, evaluation, state.failures)
    result({**figures, "images_per_second": rate, "classes": classes}, report.describe(figures, classes, rate))
    known = figures["published"]
    if known and known["protocol"] not in figures["protocols"]:
        note(f"the published accuracy was measured with another protocol; --protocol {known['protocol']} compares")
    if state.failures:
        complain(f"{len(state.failures)} of {counted(len(source), 'image')} could not be read")
    return 1 if state.failures else 0


def prepare(source, model, head: str) -> None:
    """Checks that a model can answer for a source, whose labels become indices of the model's classes.

    Raises:
        ValueError: for a model with fewer than two classes, without this head, or without the classes of the source.
    """
    import numpy as np

    from tfdeit.labels import match_classes
    from tfdeit.network.models import TFDeiTForImageClassificationWithTeacher

    classes = model.config.num_labels
    if classes < 2:
        raise ValueError(f"Expected a classifier of two classes or more. Received: one of {counted(classes, 'class')}.")
    if head != "both" and not isinstance(model, TFDeiTForImageClassificationWithTeacher):
        raise ValueError(f"Expected a model with two heads for --head {head}. Received: a {type(model).__name__}.")
    indices, how = match_classes(source.class_names, model.config.id2label)
    if how:
        note(how)
    source.labels = np.array(indices, "int32")[source.labels]


def measure(model, pipeline, head: str, state):
    """Evaluates the images that `state` says are left, and names those that cannot be read.

    Returns:
        The evaluation, and images per second (None if there was one batch).
    """
    from tfdeit.evaluation.figures import evaluate

    with progress(len(pipeline.source), "evaluating", state.images) as advance:
        watch = Stopwatch(state.images, advance)

        def on_batch(evaluation, step):
            state.update(evaluation, step)
            watch.update(state.images)

        try:
            evaluation = evaluate(model, pipeline, on_batch, head, state.start)
            state.save()
        finally:
            report_failures([f"{name}: {reason}" for _, name, reason in state.failures])
    return evaluation, watch.rate


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
