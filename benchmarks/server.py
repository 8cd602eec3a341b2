"""`tfdeit serve` under load, and what batching gains.

    python benchmarks/server.py [--photos FOLDER] [--seconds 60] [--clients 64] [--rounds 5]

Prints one JSON line a measurement. `load`: clients, a quarter of them gRPC, each with one request at a time, good and
bad ones in turn, until the server is told to stop while they go on. Every answer is compared with that of the model in
Python. `batching`: images per second with batches up to 32, and with batches of 1, in turn; the median ratio. `photos`
are files by REST, which the graph decodes and resizes one by one; `pixels` are pixel values by gRPC, where the network
is the work. `cpu_ratio` compares the processor time that the server takes for an image, where neither the clients, who
share the machine, nor what else runs there counts. The model is deit_micro_cifar10.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfdeit import export_saved_model
from tfdeit.cli.photos import IMAGE_SUFFIXES
from tfdeit.inference.classifier import load_classifier, softmax

TOLERANCE = 1e-4  # of a probability
MODEL = "deit_micro_cifar10"


class Server:
    """`tfdeit serve` as a process, on free ports."""

    def __init__(self, directory, *options):
        command = [sys.executable, "-m", "tfdeit", "serve", str(directory), "--json", "--port=0", "--grpc-port=0"]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the server
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"no server: {self.log.read()}")
        where = json.loads(line)
        self.url, self.grpc_address = where["page"].rstrip("/"), where["grpc"]

    def cpu_seconds(self):
        """Returns the processor time that it has taken, on Linux."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        """Tells it to finish."""
        self.process.send_signal(signal.SIGTERM)

    def end(self):
        """Returns the exit status, and how many requests the server says that it answered."""
        status = self.process.wait(60)
        self.process.stdout.close()
        self.log.seek(0)
        answered = re.search(r"stopped; answered ([\d,]+) request", self.log.read())
        self.log.close()
        return status, answered and int(answered[1].replace(",", ""))


class Cases:
    """Requests, and whether an answer to them is right."""

    def __init__(self, paths, model, processor):
        self.contents = [path.read_bytes() for path in paths]
        self.pixels = np.concatenate([processor(str(path), return_tensors="np").pixel_values for path in paths])
        self.logits = np.concatenate([model.predict_on_batch(row[None]).logits for row in self.pixels])
        probabilities = softmax(self.logits)
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :5]
        self.labels = [[model.config.id2label[i] for i in row] for row in best.tolist()]
        self.probabilities = np.take_along_axis(probabilities, best, -1)
        self.bad = [b"", b"no image", self.contents[0][: len(self.contents[0]) // 2]]

    def rows_are_right(self, rows, photos):
        """Whether rows of serving_default are those of the photos; None stands for a bad one."""
        return len(rows) == len(photos) and all(map(self.row_is_right, rows, photos))

    def row_is_right(self, row, photo):
        """Whether a row of serving_default is that of a photo, or of a bad one for None."""
        if photo is None:
            return row["status"] != "ok" and set(row["classes"]) == {""}
        close = np.allclose(row["probabilities"], self.probabilities[photo], atol=TOLERANCE)
        return row["status"] == "ok" and row["classes"] == self.labels[photo] and close

    def draw(self, rng):
        """Returns some photos: mostly one, sometimes some with a bad one among them."""
        photos = rng.integers(len(self.contents), size=rng.choice([1, 1, 1, 4])).tolist()
        return [*photos, None] if rng.random() < 0.2 else photos

    def content(self, photo, rng):
        """Returns the bytes of a photo, or of a bad one for None."""
        return self.contents[photo] if photo is not None else self.bad[rng.integers(len(self.bad))]


def rest_body(contents):
    return json.dumps({"instances": [{"b64": base64.b64encode(content).decode()} for content in contents]})


class Tally:
    """What the clients saw."""

    def __init__(self):
        self.seconds, self.images, self.wrong, self.lost, self.refused = [], 0, 0, [], 0
        self.stopping = False

    def answer(self, start, right, images=0):
        """Counts an answer."""
        self.seconds.append(time.perf_counter() - start)
        self.images += images
        self.wrong += not right

    def error(self, error, refused):
        """Counts a request without an answer; returns whether the client should leave."""
        if refused and self.stopping:
            self.refused += 1
        else:
            self.lost.append(repr(error))
        return self.stopping


async def rest_client(session, server, cases, tally, rng, good_only):
    """Asks until it is refused."""
    base = f"{server.url}/v1/models/micro"
    wrong_requests = [
        (f"{base}:predict", '{"instances": [', 400),
        (f"{base}:predict", '{"instances": ["a"], "signature_name": "no such"}', 400),
        (f"{base}:classify", '{"examples": []}', 400),
        (f"{server.url}/v1/models/other:predict", '{"instances": ["a"]}', 404),
    ]
    while True:
        start = time.perf_counter()
        try:
            if not good_only and rng.random() < 0.2:
                url, body, status = wrong_requests[rng.integers(len(wrong_requests))]
                async with session.post(url, data=body) as response:
                    answer = await response.json()
                    tally.answer(start, response.status == status and list(answer) == ["error"])
                continue
            photos = [int(rng.integers(len(cases.contents)))] if good_only else cases.draw(rng)
            body = rest_body([cases.content(photo, rng) for photo in photos])
            async with session.post(f"{base}:predict", data=body) as response:
                answer = await response.json()
                right = response.status == 200 and cases.rows_are_right(answer["predictions"], photos)
                tally.answer(start, right, len(photos))
        except aiohttp.ClientError as error:
            if tally.error(error, isinstance(error, aiohttp.ClientConnectorError)):
                return
        if tally.stopping and good_only:
            return


async def grpc_client(channel, cases, tally, rng):
    """Asks until it is refused."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    while True:
        photos = cases.draw(rng)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "micro" if rng.random() < 0.9 else "other"
        contents = [cases.content(photo, rng) for photo in photos]
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(contents, tf.string))
        start = time.perf_counter()
        try:
            outputs = {name: tf.make_ndarray(value) for name, value in (await stub.Predict(request)).outputs.items()}
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                tally.answer(start, request.model_spec.name == "other")
            elif tally.error(error, error.code() == grpc.StatusCode.UNAVAILABLE):
                return
            continue
        rows = [
            {
                "classes": [name.decode() for name in outputs["classes"][i]],
                "probabilities": outputs["probabilities"][i],
                "status": outputs["status"][i].decode(),
            }
            for i in range(len(outputs["status"]))
        ]
        tally.answer(start, cases.rows_are_right(rows, photos), len(photos))


async def mixed_load(server, cases, clients, seconds):
    """Returns the tally of all clients; the server is told to stop while they ask."""
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        grpc.aio.insecure_channel(server.grpc_address) as channel,
    ):
        rngs = [np.random.default_rng(i) for i in range(clients)]
        tasks = [
            grpc_client(channel, cases, tally, rng)
            if i % 4 == 0
            else rest_client(session, server, cases, tally, rng, False)
            for i, rng in enumerate(rngs)
        ]
        running = asyncio.gather(*tasks)
        start = time.perf_counter()
        await asyncio.sleep(seconds)
        tally.images_per_second = tally.images / (time.perf_counter() - start)
        tally.stopping = True
        server.stop()
        await asyncio.wait_for(running, 60)
    return tally


async def pixel_client(channel, cases, tally, rng):
    """Asks for the logits of pixel values until the load is over."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    while not tally.stopping:
        i = int(rng.integers(len(cases.contents)))
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "micro"
        request.model_spec.signature_name = "predict_pixels"
        request.inputs["pixel_values"].CopyFrom(tf.make_tensor_proto(cases.pixels[i : i + 1]))
        start = time.perf_counter()
        logits = (await stub.Predict(request)).outputs["logits"].float_val
        tally.answer(start, np.allclose(logits, cases.logits[i], atol=TOLERANCE), 1)


async def good_load(kind, server, cases, clients, seconds):
    """Returns images per second with requests of one image, and seconds of the server's processor time an image."""
    tally = Tally()
    rngs = [np.random.default_rng(i) for i in range(clients)]
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(server.grpc_address) as channel,
    ):
        if kind == "photos":
            tasks = [rest_client(session, server, cases, tally, rng, True) for rng in rngs]
        else:
            tasks = [pixel_client(channel, cases, tally, rng) for rng in rngs]
        running = asyncio.gather(*tasks)
        await asyncio.sleep(1)  # connections
        start, before, cpu = time.perf_counter(), tally.images, server.cpu_seconds()
        await asyncio.sleep(seconds)
        images = tally.images - before
        rate, cost = images / (time.perf_counter() - start), (server.cpu_seconds() - cpu) / images
        tally.stopping = True
        await running
    if tally.wrong or tally.lost:
        raise RuntimeError(f"{tally.wrong} wrong answers, lost: {tally.lost[:5]}")
    return rate, cost


def mean_batch(server):
    """Returns the mean number of rows of the server's executions."""
    with urllib.request.urlopen(f"{server.url}/monitoring/prometheus/metrics") as response:
        values = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
    return float(values["tfdeit_batch_rows_sum"]) / max(1.0, float(values["tfdeit_batch_rows_count"]))


def measure_load(directory, cases, args):
    server = Server(directory, "--no-access-log")
    tally = asyncio.run(mixed_load(server, cases, args.clients, args.seconds))
    status, answered = server.end()
    p50, p99 = np.percentile(tally.seconds, [50, 99])
    return {
        "measurement": "load",
        "clients": args.clients,
        "seconds": args.seconds,
        "answers": len(tally.seconds),
        "answers_says_server": answered,
        "images_per_second": round(tally.images_per_second, 1),
        "p50_ms": round(1000 * p50, 1),
        "p99_ms": round(1000 * p99, 1),
        "wrong": tally.wrong,
        "lost": len(tally.lost),
        "lost_examples": tally.lost[:3],
        "refused_after_sigterm": tally.refused,
        "exit_status": status,
    }


def measure_batching(kind, directory, cases, args):
    servers = {size: Server(directory, "--no-access-log", f"--max-batch-size={size}") for size in (32, 1)}
    rates, costs = {size: [] for size in servers}, {size: [] for size in servers}
    for _ in range(args.rounds):
        for size, server in servers.items():
            rate, cost = asyncio.run(good_load(kind, server, cases, args.clients, args.seconds / 10))
            rates[size].append(rate)
            costs[size].append(cost)
    rows = mean_batch(servers[32])
    for server in servers.values():
        server.stop()
        server.end()
    return {
        "measurement": "batching",
        "kind": kind,
        "clients": args.clients,
        "images_per_second_up_to_32": round(statistics.median(rates[32]), 1),
        "images_per_second_1": round(statistics.median(rates[1]), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(rates[32], rates[1], strict=True)), 2),
        "cpu_ms_up_to_32": round(1000 * statistics.median(costs[32]), 2),
        "cpu_ms_1": round(1000 * statistics.median(costs[1]), 2),
        "cpu_ratio": round(statistics.median(b / a for a, b in zip(costs[32], costs[1], strict=True)), 2),
        "mean_batch": round(rows, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path(__file__).parent.parent / "examples" / "photos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="of the batching measurement; 0 leaves it out")
    args = parser.parse_args()
    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    model, processor = load_classifier(MODEL, None)
    cases = Cases(paths, model, processor)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "micro")
        export_saved_model(model, processor, directory)
        print(json.dumps(measure_load(directory, cases, args)), flush=True)
        for kind in ("photos", "pixels") if args.rounds else ():
            print(json.dumps(measure_batching(kind, directory, cases, args)), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
