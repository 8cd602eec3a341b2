"""The snippets of the DeiT model card and documentation, with only the import lines and the checkpoint changed."""

import os
import subprocess
import sys

import pytest
from oracles import TINY, answer, random_model, saved, transformers
from PIL import Image

# Serves a photo of this machine where the snippets fetch one of COCO.
FAKE_REQUESTS = (
    "import requests, types; requests.get = lambda url, stream: types.SimpleNamespace(raw=open({photo!r}, 'rb'))\n"
)

# huggingface.co/docs/transformers/v4.57.0/en/model_doc/deit, TensorFlow tab.
TENSORFLOW_SNIPPET = """
from tfdeit import AutoImageProcessor, TFDeiTForImageClassificationWithTeacher
import tensorflow as tf
from PIL import Image
import requests

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)

image_processor = AutoImageProcessor.from_pretrained("CHECKPOINT")
model = TFDeiTForImageClassificationWithTeacher.from_pretrained("CHECKPOINT")

inputs = image_processor(images=image, return_tensors="tf")
outputs = model(**inputs)
logits = outputs.logits

predicted_class_idx = tf.math.argmax(logits, axis=-1)[0]
print("Predicted class:", model.config.id2label[int(predicted_class_idx)])
"""

# huggingface.co/facebook/deit-small-distilled-patch16-224, for PyTorch: runs on Keras' torch backend.
MODEL_CARD_SNIPPET = """
from tfdeit import AutoFeatureExtractor
from tfdeit import TFDeiTForImageClassificationWithTeacher as DeiTForImageClassificationWithTeacher
from PIL import Image
import requests

url = 'http://images.cocodataset.org/val2017/000000039769.jpg'
image = Image.open(requests.get(url, stream=True).raw)

feature_extractor = AutoFeatureExtractor.from_pretrained('CHECKPOINT')
model = DeiTForImageClassificationWithTeacher.from_pretrained('CHECKPOINT')

inputs = feature_extractor(images=image, return_tensors="pt")

# forward pass
outputs = model(**inputs)
logits = outputs.logits

# model predicts one of the 1000 ImageNet classes
predicted_class_idx = logits.argmax(-1).item()
print("Predicted class:", model.config.id2label[predicted_class_idx])
"""


@pytest.mark.parametrize(
    ("snippet", "backend"),
    [(TENSORFLOW_SNIPPET, "tensorflow"), pytest.param(MODEL_CARD_SNIPPET, "torch", marks=pytest.mark.slow)],
    ids=["docs", "card"],
)
def test_the_snippet_answers_as_transformers(snippet, backend, photos_dir, tmp_path):
    photo = photos_dir / "cat.png"
    config = TINY | {"num_hidden_layers": 2, "id2label": {i: f"class {i}" for i in range(1000)}}
    model = random_model("DeiTForImageClassificationWithTeacher", **config)
    saved(model, tmp_path)
    processor = transformers.DeiTImageProcessorPil()
    processor.save_pretrained(tmp_path)
    pixel_values = processor(Image.open(photo), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    expected = int(answer(model, pixel_values)["logits"].argmax())

    script = FAKE_REQUESTS.format(photo=str(photo)) + snippet.replace("CHECKPOINT", str(tmp_path))
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"Predicted class: class {expected}"
