r"""Classifies any number of images with an exported SavedModel, on Apache Beam.

    pip install apache-beam tensorflow
    python examples/score_with_beam.py exported/1 'photos/**' -o labels.csv
    python examples/score_with_beam.py gs://bucket/exported/1 gs://bucket/photos/** -o gs://bucket/labels.jsonl \
        --runner DataflowRunner --project P --region R --temp_location gs://bucket/tmp

Inputs are folders, patterns, or text files with a path a line (.txt). A line is written for each image: its best class
(.csv) or all that the model answers (.jsonl), or else why it could not be classified, in the column `error`. Needs
neither Keras nor tfdeit. Beam's own options can be added; without them it runs here, on all cores.
"""

import argparse
import csv
import io
import json

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions


class SavedModelHandler(ModelHandler):
    """Gives batches of the bytes of images to the signature `serving_default`.

    Args:
        path: directory of a version.
        batch_size: most images at a time.
    """

    def __init__(self, path, batch_size):
        super().__init__(max_batch_size=batch_size)
        self.path = path

    def load_model(self):
        """Loads it once a process."""
        import tensorflow as tf

        return tf.saved_model.load(self.path)

    def run_inference(self, batch, model, inference_args=None):
        """Yields the status and the predictions of each image."""
        import tensorflow as tf

        outputs = model.signatures["serving_default"](tf.constant(batch))
        names = ("status", "classes", "indices", "probabilities")
        for status, *answers in zip(*(outputs[name].numpy() for name in names), strict=True):
            yield (
                status.decode(),
                [
                    {"label": label.decode(), "index": int(index), "probability": float(probability)}
                    for label, index, probability in zip(*answers, strict=True)
                ],
            )


def list_files(source):
    """Yields the paths that an argument stands for."""
    if source.endswith(".txt"):
        with FileSystems.open(source) as lines:
            yield from filter(None, (line.decode().rstrip("\r\n") for line in lines))
        return
    pattern = source.rstrip("/") + "/**" if not set("*?[") & set(source) else source
    matches = FileSystems.match([pattern, source])
    yield from sorted({file.path for match in matches for file in match.metadata_list})


def read(path):
    """Yields the path and the bytes of a file; what cannot be read goes to the output `unreadable`."""
    try:
        with FileSystems.open(path) as file:
            yield path, file.read()
    except Exception as error:  # of any file system, local or remote
        yield beam.pvalue.TaggedOutput("unreadable", (path, (f"cannot be read: {error}", [])))


def to_record(answer):
    """What is written of an image."""
    path, (status, predictions) = answer
    good = status == "ok"
    return {"path": path, "error": None if good else status, "predictions": predictions if good else []}


CSV_HEADER = ("path", "error", "label", "index", "probability")


def to_csv(record):
    """A line with the best class."""
    best = record["predictions"][0] if record["predictions"] else {}
    values = {"path": record["path"], "error": record["error"], **best}
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([values.get(name) for name in CSV_HEADER])
    return line.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="directory of a version of an exported model, such as exported/1")
    parser.add_argument("sources", nargs="+", help="folder, pattern, or .txt file with a path a line")
    parser.add_argument("-o", "--output", required=True, help="a .csv or .jsonl file")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shards", type=int, default=1, help="files to write; many machines write many faster")
    arguments, beam_options = parser.parse_known_args()
    as_csv = arguments.output.endswith(".csv")
    if not as_csv and not arguments.output.endswith(".jsonl"):
        parser.error(f"expected an output that ends with .csv or .jsonl, received {arguments.output}")

    with beam.Pipeline(options=PipelineOptions(beam_options, save_main_session=True)) as pipeline:
        files = (
            pipeline
            | "sources" >> beam.Create(arguments.sources)
            | "list" >> beam.FlatMap(list_files)
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(read).with_outputs("unreadable", main="readable")
        )
        handler = KeyedModelHandler(SavedModelHandler(arguments.model, arguments.batch_size))
        answers = (files.readable | "classify" >> RunInference(handler), files.unreadable)
        (
            answers
            | "join" >> beam.Flatten()
            | "record" >> beam.Map(to_record)
            | "format" >> beam.Map(to_csv if as_csv else json.dumps)
            | "write"
            >> beam.io.WriteToText(
                arguments.output,
                header=",".join(CSV_HEADER) if as_csv else None,
                num_shards=arguments.shards,
                shard_name_template="" if arguments.shards == 1 else None,
            )
        )


if __name__ == "__main__":
    main()
