"""`tfdeit serve` as a subprocess: what it prints, its errors, and its end."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import toy_savedmodel
from running_server import request

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "toy"
    toy_savedmodel.save(directory / "1")
    return directory


def start(*args, **env):
    command = [sys.executable, "-m", "tfdeit", "serve", *map(str, args)]
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | env
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env)


@contextlib.contextmanager
def serving(*args):
    """Gives a started server and its URL."""
    process = start(*args, "--port", 0, "--grpc-port", 0)
    try:
        url = None
        while not url:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            url = re.match(r" +web page +(http://127\.0\.0\.1:\d+)/$", line)
        while not line.startswith("  metrics"):
            line = process.stdout.readline()
        yield process, url[1]
    finally:
        process.kill()
        process.communicate()


def fails(*args, **env):
    """Returns what a server that cannot start says."""
    process = start(*args, **env)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert stderr.count("tfdeit serve: error: ") == 1
    return stderr


def test_what_cannot_be_served(base_path, tmp_path):
    assert "no such directory" in fails(tmp_path / "nothing")
    assert "numbered directory" in fails(tmp_path)
    assert "pass its parent" in fails(base_path / "1")
    assert "--model-name" in fails(base_path, "--model-name", "a/b")
    assert "pass another --host" in fails(base_path, "--host", "192.0.2.1")  # of documentation: nobody's


@pytest.mark.slow
def test_ports_in_use(base_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert str(port) in fails(base_path, "--port", port, "--grpc-port", 0)
        assert "--grpc-port" in fails(base_path, "--port", 0, "--grpc-port", port)


@pytest.mark.slow
def test_a_missing_library(base_path, tmp_path):
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\")")
    message = fails(base_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "aiohttp" in message
    assert "pip install tfdeit[serving]" in message


@pytest.mark.slow
def test_a_signal_loses_nothing_accepted(base_path):
    """Requests that take seconds, and clients that keep asking, while the server is told to stop."""
    with serving(base_path, "--model-name", "toy", "--max-batch-size", 4) as (process, url):
        answers, refused = [], []

        def ask(body, times=1):
            for _ in range(times):
                try:
                    answers.append(request(f"{url}/v1/models/toy:predict", json.dumps(body).encode()))
                except OSError as error:
                    refused.append(error)
                    return

        slow = {"signature_name": "slow", "instances": [60_000]}
        threads = [threading.Thread(target=ask, args=(slow,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while in_flight(url) < len(threads):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        with pytest.raises(OSError, match="refused"):
            request(f"{url}/healthz")
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
        assert answers == [(200, {"predictions": [60_000]})] * len(threads)
        assert not refused
        assert "stopped" in process.stderr.read()


def in_flight(url):
    text = request(f"{url}/monitoring/prometheus/metrics")[1]
    return float(re.search(r"^tfdeit_requests_in_flight (\S+)$", text, re.MULTILINE)[1])


def ask_for_ever(url):
    """Returns the thread of a client whose request is in the server, takes minutes, and must not be answered."""
    body = json.dumps({"signature_name": "slow", "instances": [2_000_000]}).encode()

    def ask():
        with pytest.raises(OSError):
            request(f"{url}/v1/models/toy:predict", body)

    client = threading.Thread(target=ask)
    client.start()
    while in_flight(url) < 1:
        time.sleep(0.02)
    return client


@pytest.mark.slow
def test_a_second_signal_ends_at_once(base_path):
    with serving(base_path, "--model-name", "toy") as (process, url):
        client = ask_for_ever(url)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 128 + signal.SIGINT
        client.join(10)
        assert not client.is_alive()


@pytest.mark.slow
def test_what_is_not_finished_in_time_is_dropped(base_path):
    """The batch that runs cannot be interrupted; a second signal ends it too."""
    with serving(base_path, "--model-name", "toy", "--grace", 1) as (process, url):
        client = ask_for_ever(url)
        process.send_signal(signal.SIGTERM)
        lines = iter(process.stderr.readline, "")
        assert any("1 request dropped after 1 s" in line for line in lines)
        client.join(10)
        assert not client.is_alive()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_the_access_log_is_one_line_a_request(base_path):
    with serving(base_path) as (process, url):
        assert request(f"{url}/v1/models/toy:predict", b'{"instances": ["a"]}')[0] == 200
        assert request(f"{url}/v1/models/x%0A12.00.00%20forged")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        lines = [line for line in process.stderr.read().splitlines() if not line.startswith("tfdeit serve: ")]
    assert [bool(re.match(r"\d\d:\d\d:\d\d ", line)) for line in lines] == [True] * len(lines)
    requests = [line for line in lines if " REST " in line]
    assert [line.split()[2:5] for line in requests] == [["REST", "predict", "OK"], ["REST", "status", "NOT_FOUND"]]
    assert not any(line.startswith("12.00.00 forged") for line in lines)
