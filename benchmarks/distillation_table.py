"""Which way of distilling helps: table 3 of the paper (arXiv:2012.12877) on a small scale, at equal budget.

    python benchmarks/distillation_table.py --data cifar10-images.zip --teacher teacher.keras --out runs/table

`--data` is what `tfdeit train` takes, with images of 32x32 pixels, and `--teacher` any teacher of its classes. Four
ways of training the same small network, `--seeds` times each: on the labels alone; with the teacher's probabilities
(soft) or answers (hard) for the class token; with its answers for a distillation token.

Prints a JSON line for each way, and for each head of the students that have two: the mean of the accuracies on the
images held out, and their standard deviation. RUN/curves.png shows the accuracy by epochs. A run that is interrupted
goes on where it was.
"""

import argparse
import csv
import json
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfdeit import AutoImageProcessor, DeiTConfig, DeiTImageProcessor, TFAutoModelForImageClassification, ViTConfig
from tfdeit.data.pipeline import eval_pipeline
from tfdeit.data.splits import open_splits
from tfdeit.evaluation.figures import evaluate
from tfdeit.presentation.charts import line_chart
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD
from tfdeit.training.recipes import RECIPES
from tfdeit.training.run import Run, train

# Name -> class of the config, and changes of the recipe.
WAYS = {
    "labels alone": (ViTConfig, {}),
    "soft": (ViTConfig, {"distillation": "soft", "distillation_alpha": 0.1, "distillation_tau": 3.0, "heads": "class"}),
    "hard": (ViTConfig, {"distillation": "hard", "heads": "class"}),
    "hard, distillation token": (DeiTConfig, {"distillation": "hard"}),
}


def write_student(directory: Path, config_class, args: argparse.Namespace):
    """Writes the configuration of a student, without weights."""
    sizes = {"hidden_size": args.width, "num_hidden_layers": args.depth, "intermediate_size": 4 * args.width}
    sizes |= {"num_attention_heads": args.width // 32, "patch_size": args.patch, "encoder_stride": args.patch}
    config = config_class(**sizes, image_size=32, layer_norm_eps=1e-6)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    processor = DeiTImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )
    processor.save_pretrained(directory)


def accuracies(model_directory: Path, source) -> dict[str, float]:
    """Returns the top-1 accuracy of each head."""
    model = TFAutoModelForImageClassification.from_pretrained(model_directory)
    pipeline = eval_pipeline(source, 250, AutoImageProcessor.from_pretrained(model_directory))
    heads = ("class", "distillation", "both") if hasattr(model, "distillation_classifier") else ("both",)
    return {head: evaluate(model, pipeline, head=head).top1 for head in heads}


def curve(run: Path) -> list[float]:
    """Returns the accuracy after each epoch."""
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        return [float(row["val_accuracy"]) for row in csv.DictReader(file)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or zip with train/CLASS and test/CLASS")
    parser.add_argument("--teacher", required=True, help="see tfdeit train")
    parser.add_argument("--teacher-pixels", help="see tfdeit train")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patch", type=int, default=8, help="side of a patch in pixels (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of a student, 32 for each head (%(default)s)")
    parser.add_argument("--depth", type=int, default=4, help="blocks (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    args = parser.parse_args()

    source, curves = open_splits(args.data)[1], {}
    for way in args.ways:
        config_class, changes = WAYS[way]
        student = args.out / f"student-{config_class.model_type}"
        write_student(student, config_class, args)
        results, own_curves = {}, []
        for seed in range(args.seeds):
            run = args.out / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            recipe = RECIPES["cifar10_micro"].replace(
                epochs=args.epochs, batch_size=args.batch_size, seed=seed, ema=0.0, warmup_epochs=1.0, **changes
            )
            teacher = {"teacher": args.teacher, "teacher_pixels": args.teacher_pixels} if changes else {}
            if not (run / "model").exists():
                finished = train(
                    recipe,
                    Run(args.data, str(student), **teacher),
                    run,
                    True,
                    lambda text: print(text, file=sys.stderr),
                )
                if not finished:
                    sys.exit(f"stopped; the same command goes on with {run}")
            own_curves.append(curve(run))
            for head, accuracy in accuracies(run / "model", source).items():
                results.setdefault(head, []).append(accuracy)
        curves[way] = [
            (epoch, statistics.mean(values)) for epoch, values in enumerate(zip(*own_curves, strict=True), 1)
        ]
        for head, values in results.items():
            line = {"benchmark": "distillation_table", "way": way, "head": head, "epochs": args.epochs}
            line |= {"accuracy": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
            print(json.dumps({**line, "accuracies": values}), flush=True)
    line_chart(curves, f"accuracy, mean of {args.seeds} seeds", "epoch", "accuracy").save(args.out / "curves.png")


if __name__ == "__main__":
    main()
