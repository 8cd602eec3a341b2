"""Exports a SavedModel, and asks the server that serves it what is on a photo, over TF Serving's REST protocol.

    python examples/export_and_query.py examples/photos/cat.png --out exported [--url http://localhost:8501]

It waits for the server: TF Serving as OUT/README.md says, or `tfdeit serve exported` (`pip install tfdeit[serving]`).
"""

import argparse
import base64
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from tfdeit import AutoImageProcessor, TFAutoModelForImageClassification, export_saved_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="base path of the model, gets its next version")
    parser.add_argument("--model", default="deit_micro_cifar10")
    parser.add_argument("--url", default="http://localhost:8501")
    args = parser.parse_args()

    model = TFAutoModelForImageClassification.from_pretrained(args.model)
    version = export_saved_model(model, AutoImageProcessor.from_pretrained(args.model), args.out)
    url = f"{args.url}/v1/models/{args.out.name}/versions/{version.name}"
    print(f"waiting for {url}", flush=True)
    state = None
    while state != "AVAILABLE":
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                state = json.load(answer)["model_version_status"][0]["state"]
        except urllib.error.URLError:  # there is no server yet, or it has not seen the version
            time.sleep(0.5)
    instance = {"b64": base64.b64encode(args.photo.read_bytes()).decode()}
    with urllib.request.urlopen(f"{url}:predict", json.dumps({"instances": [instance]}).encode()) as answer:
        print(json.dumps(json.load(answer), indent=2))


if __name__ == "__main__":
    main()
