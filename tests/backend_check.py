"""Run under each Keras backend by test_backends.py: compares with what transformers answered, then trains and saves.

    KERAS_BACKEND=jax python backend_check.py DIRECTORY

DIRECTORY holds the checkpoint `model` and expected.npz. Prints one JSON line of largest differences.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import tfdeit

directory = Path(sys.argv[1])
expected = np.load(directory / "expected.npz")
pixel_values, labels = expected["pixel_values"], expected["labels"]
model = tfdeit.TFDeiTForImageClassificationWithTeacher.from_pretrained(directory / "model")


def difference(ours, theirs) -> float:
    return float(np.abs(keras.ops.convert_to_numpy(ours) - theirs).max())


outputs = model(pixel_values, output_hidden_states=True, output_attentions=True)
fused = model(pixel_values)  # sdpa, where the backend has it
resized = model(expected["larger"], interpolate_pos_encoding=True)
differences = {
    "logits": difference(outputs.logits, expected["logits"]),
    "cls_logits": difference(outputs.cls_logits, expected["cls_logits"]),
    "distillation_logits": difference(outputs.distillation_logits, expected["distillation_logits"]),
    "hidden_states": difference(keras.ops.stack(outputs.hidden_states), expected["hidden_states"]),
    "attentions": difference(keras.ops.stack(outputs.attentions), expected["attentions"]),
    "sdpa": difference(fused.logits, expected["logits"]),
    "predict": difference(model.predict(pixel_values, verbose=0).logits, expected["logits"]),
    "interpolated": difference(resized.logits, expected["larger_logits"]),
}

model.save(directory / "model.keras")
loaded = keras.saving.load_model(directory / "model.keras")
differences["keras_file"] = difference(loaded(pixel_values).logits, expected["logits"])
half = type(model).from_pretrained(directory / "model", dtype="bfloat16")
half_logits = keras.ops.cast(half(pixel_values).logits, "float32")

model.gradient_checkpointing_enable()
model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = model.fit(pixel_values, labels, batch_size=len(labels), epochs=3, verbose=0).history
print(
    json.dumps(
        {
            "backend": keras.backend.backend(),
            "differences": differences,
            "bfloat16": difference(half_logits, expected["logits"]),
            "losses": history["loss"],
        }
    )
)
