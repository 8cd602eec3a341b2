"""Runs and trains the same model on JAX: a compiled forward pass, and gradient descent.

    pip install tfdeit[jax]
    python examples/jax_backend.py examples/photos/*.png [--model NAME]

Keras reads KERAS_BACKEND when it is imported; "torch" does as well.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import argparse

import jax

from tfdeit import AutoImageProcessor, TFAutoModelForImageClassification


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--model", default="deit_micro_cifar10")
    args = parser.parse_args()

    model = TFAutoModelForImageClassification.from_pretrained(args.model, dtype="float32")
    pixel_values = AutoImageProcessor.from_pretrained(args.model)(args.photos, return_tensors="jax").pixel_values
    trained = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def forward(trained, pixel_values):
        outputs, _ = model.stateless_call(trained, rest, pixel_values)
        return outputs.logits

    @jax.jit
    def step(trained, pixel_values, labels):
        """Moves the weights towards these labels."""

        def loss(trained):
            scores = jax.nn.log_softmax(forward(trained, pixel_values))
            return -scores[jax.numpy.arange(len(labels)), labels].mean()

        value, gradients = jax.value_and_grad(loss)(trained)
        return value, [weight - 0.01 * gradient for weight, gradient in zip(trained, gradients, strict=True)]

    labels = forward(trained, pixel_values).argmax(-1)
    for photo, label in zip(args.photos, labels.tolist(), strict=True):
        print(f"{photo}: {model.config.id2label[label]}")
    for _ in range(3):
        value, trained = step(trained, pixel_values, labels)
        print(f"loss {value:.4f}")


if __name__ == "__main__":
    main()
