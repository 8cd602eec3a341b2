"""Distils a network of keras.applications into a DeiT, in plain Keras `fit`.

    python examples/distil_application.py photos --out runs/distilled [--application ResNet50] [--weights imagenet]

The folder (or zip) holds CLASS/*.jpg, or train/CLASS and val/CLASS. The teacher gets a head for these classes, which
is trained first. The student's class head then learns from the labels, its distillation head from the teacher.
"""

import argparse

import keras

from tfdeit import AutoImageProcessor, TFDeiTForImageClassificationWithTeacher
from tfdeit.data.pipeline import train_pipeline
from tfdeit.data.splits import open_splits
from tfdeit.training.learner import Learner
from tfdeit.training.optimizer import AdamW
from tfdeit.training.recipes import RECIPES
from tfdeit.training.tasks import classification
from tfdeit.training.teacher import keras_teacher


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--model", default="deit_micro_cifar10", help="the student, a distilled DeiT")
    parser.add_argument("--application", default="EfficientNetV2B0", help="one that takes pixels from 0 to 255")
    parser.add_argument("--weights", help="imagenet; random unless said")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    source, _, _ = open_splits(args.data)
    student = TFDeiTForImageClassificationWithTeacher.from_pretrained(args.model, id2label=source.class_names)
    recipe = RECIPES["finetune"].replace(distillation="hard")
    size, side = student.config.image_hw, student.config.image_hw[0]
    data = train_pipeline(source, args.batch_size, side, recipe)
    options = {"steps_per_epoch": data.steps_per_epoch, "epochs": args.epochs, "shuffle": False, "verbose": 2}

    build = getattr(keras.applications, args.application)
    network = build(include_top=False, weights=args.weights, pooling="avg", input_shape=(*size, 3))
    teacher = keras.Sequential([network, keras.layers.Dense(len(source.class_names))])
    teacher.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    plain = recipe.replace(auto_augment=None, mean=(0.0,) * 3, std=(1 / 255,) * 3)  # pixels from 0 to 255
    teacher.fit(train_pipeline(source, args.batch_size, side, plain).dataset(), **options)

    task = classification(recipe, student, keras_teacher(teacher))
    learner = Learner(student, task, clip=1.0)
    learner.compile(AdamW(3e-4, weight_decay=0.05))
    learner.fit(data.dataset(), **options)
    student.save_pretrained(args.out)
    AutoImageProcessor.from_pretrained(args.model).save_pretrained(args.out)


if __name__ == "__main__":
    main()
