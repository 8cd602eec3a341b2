"""Serves an exported SavedModel with KServe's Python server: TF Serving's REST protocol, JSON in and out.

    pip install kserve tensorflow
    python examples/serve_with_kserve.py exported/1 --model_name exported --http_port 8080
    printf '{"instances": [{"b64": "%s"}]}' "$(base64 -w0 photo.jpg)" |
      curl -H 'Content-Type: application/json' -d @- http://localhost:8080/v1/models/exported:predict

On Kubernetes, KServe's own TensorFlow runtime, which is TF Serving, loads the export without this program.
"""

import argparse
import base64

import kserve
import tensorflow as tf


class SavedModel(kserve.Model):
    """The signature `serving_default` of a version."""

    def __init__(self, name, path):
        super().__init__(name)
        self.serve = tf.saved_model.load(path).signatures["serving_default"]
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """Answers a request in the row format."""
        images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        outputs = {name: value.numpy().tolist() for name, value in self.serve(tf.constant(images)).items()}
        outputs["status"] = [status.decode() for status in outputs["status"]]
        outputs["classes"] = [[name.decode() for name in names] for names in outputs["classes"]]
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser], description=__doc__.split("\n")[0])
    parser.add_argument("version", help="directory of a version, such as exported/1")
    arguments = parser.parse_args()
    kserve.logging.configure_logging(arguments.log_config_file)
    kserve.ModelServer().start([SavedModel(arguments.model_name, arguments.version)])
