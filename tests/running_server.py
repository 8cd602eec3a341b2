"""A server in a thread of the test's process."""

import asyncio
import contextlib
import json
import threading
import urllib.error
import urllib.request

import pytest

for library in ("aiohttp", "grpc", "grpc_health", "prometheus_client", "tensorflow_serving"):
    pytest.importorskip(library, reason="needs tfdeit[serving]")

from tfdeit.server.run import Options, Server  # noqa: E402
from tfdeit.server.service import Limits  # noqa: E402


class RunningServer:
    """A server on free ports; `call` runs a coroutine in its event loop."""

    def __init__(self, directory, limits=None, **options):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        options = {"name": "toy", "port": 0, "grpc_port": 0, "poll": 0.05, "grace": 20.0} | options
        self.server = self.call(self._build(Options(str(directory), **options), limits or Limits(batch_timeout=0.002)))
        self.url = self.server.url

    async def _build(self, options, limits):
        server = Server(options, limits)
        await server.start()
        return server

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(300)

    def close(self):
        self.call(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()

    def get(self, path, **headers):
        return request(self.url + path, None, headers)

    def post(self, path, body, **headers):
        return request(self.url + path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

    def predict(self, body, status=200):
        found, answer = self.post("/v1/models/toy:predict", body)
        assert found == status, answer
        return answer


@contextlib.contextmanager
def running_server(directory, limits=None, **options):
    server = RunningServer(directory, limits, **options)
    try:
        yield server
    finally:
        server.close()


def request(url, body=None, headers=None, method=None):
    """Returns (status, JSON or text)."""
    message = urllib.request.Request(
        url, body, {k.replace("_", "-"): v for k, v in (headers or {}).items()}, method=method
    )
    try:
        with urllib.request.urlopen(message, timeout=60) as response:
            status, kind, content = response.status, response.headers.get_content_type(), response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, kind, content = error.code, error.headers.get_content_type(), error.read()
    return status, json.loads(content) if kind == "application/json" else content.decode()
