"""The life cycle of the server: start, look for new versions, drain, stop."""

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping

from aiohttp import web

from tfdeit.presentation.terminal import counted, note
from tfdeit.server.grpc_front import build_grpc
from tfdeit.server.models import Model
from tfdeit.server.rest import build_app
from tfdeit.server.service import Limits, Service, logger

QUIET = 1.0  # seconds without a request before a draining server closes: clients on busy machines are slow


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the command line.

    Args:
        directory: the base directory of a model.
        name: what clients call the model.
        labels: label -> version.
        host: the address to listen on.
        port: of REST and the web page; 0 for a free one.
        grpc_port: of gRPC; 0 for a free one.
        poll: seconds between checks for a new version.
        grace: seconds for accepted requests to finish after a signal.
    """

    directory: str
    name: str
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int = 8500
    poll: float = 2.0
    grace: float = 30.0


class Server:
    """Both front ends and the model, for use in an event loop.

    Args:
        options: where to listen, and what to serve.
        limits: of requests.
    """

    def __init__(self, options: Options, limits: Limits):
        self.options = options
        self.model = Model(options.name, options.directory, options.labels, lambda line: logger.warning("%s", line))
        self.service = Service(self.model, limits)

    async def start(self):
        """Binds the ports, loads the model, and listens.

        Raises:
            OSError: if a port cannot be bound.
            ValueError: if the model cannot be loaded.
        """
        options = self.options
        address = f"[{options.host}]" if ":" in options.host else options.host
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(bind(options.host, options.port))
            self._grpc, self._health, self.grpc_port = await build_grpc(self.service, address, options.grpc_port)
            await asyncio.to_thread(self.model.refresh)
            failed = [f"version {number}: {state.error}" for number, state in self.model.states.items() if state.error]
            if failed:
                raise ValueError(f"Expected SavedModels that can be loaded. Received: {'; '.join(failed)}")
            on_failure.pop_all()
        # A handler whose client disconnects is cancelled, and so is its place in a batch. Closing need not wait long:
        # `stop` has waited before.
        app = build_app(self.service)
        self._rest = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._rest.setup()
        self._site = web.SockSite(self._rest, listener)
        await self._site.start()
        await self._grpc.start()
        self._watch = asyncio.create_task(self._follow())
        self.port = listener.getsockname()[1]
        self.url = f"http://{address}:{self.port}"
        self.grpc_address = f"{address}:{self.grpc_port}"

    async def stop(self):
        """Refuses new requests, answers those that were accepted, and closes."""
        self.service.draining = True
        self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._site.stop()
        with contextlib.suppress(asyncio.TimeoutError):  # then the rest is dropped, which is logged
            await asyncio.wait_for(self._drained(), self.options.grace)
        if self.service.in_flight:
            dropped = counted(self.service.in_flight, "request")
            logger.warning("%s dropped after %s s", dropped, self.options.grace)
        # Not earlier: gRPC cancels calls that have arrived but have not reached Python yet.
        await self._grpc.stop(None)
        await self._rest.cleanup()
        await asyncio.to_thread(self.service.batcher.close)  # in a thread, so that a second signal is handled

    async def _drained(self):
        """Waits until there has been no request for a while.

        Requests can still arrive on open connections. They are answered, with a request to disconnect.
        """
        quiet = 0
        while quiet < 4:
            await asyncio.sleep(QUIET / 4)
            quiet = 0 if self.service.in_flight else quiet + 1

    async def _follow(self):
        """Loads new versions as they appear."""
        while True:
            await asyncio.sleep(self.options.poll)
            try:
                await asyncio.to_thread(self.model.refresh)
            except (OSError, ValueError) as error:
                logger.warning("still serving the versions that are loaded: %s", error)


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound but does not listen yet.

    Raises:
        OSError: if the address is in use, or not an address of this machine.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        if listener:
            listener.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            message = f"Expected an address of this machine. Received: {host}. {error.strerror}: pass another --host"
        else:
            message = f"Expected port {port} of {host} to be free. {error.strerror}: pass another --port"
        raise OSError(message) from None


async def serve(options: Options, limits: Limits, announce: Callable[[Server], None]):
    """Serves until SIGTERM or SIGINT, then answers the requests accepted so far; a second signal exits at once.

    Args:
        options: where to listen, and what to serve.
        limits: of requests.
        announce: called once the server is listening.

    Raises:
        OSError, ValueError: if it cannot start.
    """
    stopping = asyncio.Event()

    def on_signal(number):
        if stopping.is_set():
            os._exit(128 + number)
        note("stopping: finishing accepted requests; send the signal again to exit at once")
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    server = Server(options, limits)
    await server.start()
    announce(server)
    await stopping.wait()
    await server.stop()
    note(f"stopped; answered {counted(server.service.answered, 'request')}")


def log_to_stderr(level: int):
    """Sends log records of at least a level to stderr; logging.INFO has one line per request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
