"""The command `benchmark`. Heavy imports are inside the functions: the arguments are parsed without them."""

import argparse
import tempfile
from pathlib import Path

from tfdeit.benchmark import CONTESTANTS, find
from tfdeit.cli.arguments import DEFAULT_MODEL, PICTURES, Parser, completed, model_names, positive
from tfdeit.inference.classifier import DTYPES
from tfdeit.presentation.terminal import complain, note, progress, result, table

OURS = "tfdeit"


DESCRIPTION = (
    "Measures the forward pass of a classifier: images per second, share of the machine's matrix product, memory and "
    "loading time. Every implementation runs in a process of its own; they take turns, and the others are paused "
    "meanwhile. Those that cannot take part are named on stderr, and the exit status is 1.\n\ncontestants:\n"
    + "\n".join(f"  {name:21} {row.about}" for name, row in CONTESTANTS.items())
)
EXAMPLES = """
tfdeit benchmark --model deit_small_patch16_224
tfdeit benchmark --against transformers,openvino --batch 1 8 --dtype float32 bfloat16 --chart speed.png
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `benchmark`."""
    model = parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="directory in Hugging Face format, hub id, or name of the zoo, which gets random weights (%(default)s)",
    )
    completed(model, model_names)
    add_measurement(parser)
    parser.add_argument("--chart", metavar="FILE", help="picture to write, such as speed.png")


def add_measurement(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that benchmarks/forward.py has too."""
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8], metavar="N", help="images at a time (1 8)")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float32"], help="to store and compute in")
    parser.add_argument(
        "--against",
        type=contestants,
        default=[],
        metavar="NAME,...",
        help="implementations to compare with, separated by commas: " + ", ".join(CONTESTANTS),
    )
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=positive, default=1, metavar="S", help="about how long a turn is (%(default)s)"
    )


def contestants(text: str) -> list[str]:
    """Parses names of contestants, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        try:
            find(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return names


def run(args: argparse.Namespace) -> int:
    """Measures; prints a table or JSON, and draws a chart."""
    if args.chart and Path(args.chart).suffix.lower() not in PICTURES:
        raise ValueError(f"Expected --chart to name a picture, such as speed.png. Received: {args.chart}.")
    names = list(dict.fromkeys([OURS, *args.against]))
    batches, dtypes = list(dict.fromkeys(args.batch)), list(dict.fromkeys(args.dtype))
    absent = set()

    def failed(name, reason):
        absent.add(name)
        complain(f"{name}: {reason}")

    rows: list[dict] = []
    about: dict = {}
    with progress(args.rounds * len(dtypes) * len(batches) * len(names), "measuring") as advance:
        for dtype in dtypes:
            about, measured = compare(args.model, names, batches, dtype, args, failed, advance)
            rows += measured
    for row in rows:
        result({"benchmark": "forward", "model": args.model, **row}, None)
    if not args.json:
        print_tables(args.model, about, rows)
    if args.chart:
        draw(args.chart, args.model, rows)
    return 1 if absent else 0


def compare(model, names, batches, dtype, turns, failed, advance) -> tuple[dict, list[dict]]:
    """Measures in one dtype, with the rounds and seconds of `turns`; returns facts of the model, and a dict a row."""
    from tfdeit.benchmark import absence
    from tfdeit.benchmark.rounds import Plan, WorkerError, measure, workers

    able = [name for name in names if absence(name, dtype) is None]  # `measure` reports the others
    with tempfile.TemporaryDirectory() as folder:
        with workers() as start:
            try:
                about = start().ask("prepare", model=model, folder=folder, contestants=able, dtype=dtype)
            except WorkerError as error:
                raise ValueError(f"{model}: {error}") from None
        broken = about.pop("failed")
        for name, reason in broken.items():
            failed(name, reason)
        names = [name for name in names if name not in broken]
        plan = Plan(names, folder, dtype, about["macs"], batches, turns.rounds, turns.seconds)
        return about, measure(plan, failed, advance)


def print_tables(model: str, about: dict, rows: list[dict]):
    """Prints a table for each dtype."""
    weights = ", random weights" if about["random"] else ""
    print(
        f"{model}: {about['class']}, {about['parameters'] / 1e6:.1f} M parameters, {about['macs'] / 1e9:.2f} GMACs an "
        f"image{weights}; backend {about['backend']}"
    )
    columns = ("contestant", "batch", "ms", "images/s", "speed", "GFLOP/s", "of peak", "MB an image", "peak MB")
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        own = [row for row in rows if row["dtype"] == dtype]
        title = f"{dtype}; the matrix product reaches {own[0]['peak_gflops']:.0f} GFLOP/s"
        lines = [(row["contestant"], str(row["batch"]), *cells(row)) for row in own]
        print("\n" + table((*columns, "load s", "difference"), lines, title))
    print(f"\nspeed: as a multiple of {OURS}'s; difference: of the logits, from {OURS}'s")
    for row in rows:
        if row["split"]:
            note(f"{row['contestant']}: {row['batch']} images do not fit into memory; in parts of {row['split']}")


def cells(row: dict) -> list[str]:
    """Returns the figures of a row, as text."""
    megabytes = (f"{row[key] / 1e6:.1f}" if row[key] is not None else "-" for key in ("image_bytes", "peak_bytes"))
    return [
        f"{row['milliseconds']:.1f}",
        f"{row['images_per_second']:.1f}",
        f"{row['ratio']:.2f}" if row["ratio"] else "-",
        f"{row['gflops']:.0f}",
        f"{row['peak_share']:.0%}",
        *megabytes,
        f"{row['load_seconds']:.1f}",
        "-" if row["difference"] is None or row["contestant"].startswith("keras-hub") else f"{row['difference']:.0e}",
    ]


def draw(path: str, model: str, rows: list[dict]):
    """Draws images a second."""
    from tfdeit.presentation.charts import bar_chart

    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault(f"{row['dtype']}, batch {row['batch']}", {})
        group[row["contestant"]] = row["images_per_second"]
    bar_chart(groups, model, "images/s").save(path)
