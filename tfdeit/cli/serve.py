"""The command `serve`. Heavy imports are inside the function: the arguments are parsed without them."""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from tfdeit.cli.arguments import Parser, natural, port_number, positive, version_label
from tfdeit.presentation.terminal import note, result, silenced_stderr
from tfdeit.server.versions import find_versions

DESCRIPTION = (
    "Serves the SavedModel in DIR/1 (or the highest number, also one that appears later) with TensorFlow Serving's "
    "REST and gRPC protocols, and a web page. For production there is TensorFlow Serving."
)
EXAMPLES = """
tfdeit export --model run/model -o served && tfdeit serve served
tfdeit serve served --port 8080 --version-label stable=3 --version-label canary=4
"""


def add_arguments(parser: Parser) -> None:
    """Adds the arguments of `serve`."""
    parser.add_argument(
        "directory", metavar="DIR", help="directory with numbered versions, as `tfdeit export` writes them"
    )
    options: dict[str, tuple[Any, ...]] = {
        "--port": (port_number, 8501, "N", "port of REST and the web page; 0 takes a free one"),
        "--grpc-port": (port_number, 8500, "N", "port of gRPC"),
        "--host": (str, "127.0.0.1", "ADDRESS", "address to listen on; there is no authentication"),
        "--model-name": (str, None, "NAME", "name in URLs and requests (that of DIR)"),
        "--max-batch-size": (positive, 32, "N", "rows that are executed together"),
        "--batch-timeout": (natural, 2, "MS", "milliseconds that a request waits for others"),
        "--workers": (positive, None, "N", "batches executed at the same time (number of cores)"),
        "--max-queue": (positive, 256, "N", "requests accepted and not yet answered"),
        "--max-body": (positive, 32, "MIB", "size of a request"),
        "--max-instances": (positive, 128, "N", "rows of a request"),
        "--grace": (natural, 30, "S", "seconds to finish accepted requests after a signal"),
    }
    for name, (kind, default, metavar, text) in options.items():
        shown = "" if default is None else " (%(default)s)"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=text + shown)
    parser.add_argument(
        "--version-label",
        action="append",
        type=version_label,
        default=[],
        metavar="LABEL=VERSION",
        dest="labels",
        help="serve this version too, at /labels/LABEL; repeatable",
    )
    parser.add_argument("--no-access-log", dest="access_log", action="store_false", help="do not log each request")


def run(args: argparse.Namespace) -> int:
    """Serves a SavedModel until a signal."""
    name = args.model_name or Path(args.directory).resolve().name
    if not name or set(name) & set("/:"):
        raise ValueError(f"Expected a model name without / and :. Received: {name!r}. Pass --model-name.")
    find_versions(Path(args.directory))
    try:
        with silenced_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()  # the search for a GPU is logged
        import asyncio

        from tfdeit.server.run import Options, log_to_stderr, serve
        from tfdeit.server.service import Limits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pip install tfdeit[serving]") from error

    tf.get_logger().setLevel("ERROR")  # it warns of the session loader, which is TensorFlow Serving's
    log_to_stderr(logging.ERROR if args.quiet else logging.INFO if args.access_log else logging.WARNING)
    options = Options(
        directory=args.directory,
        name=name,
        labels=dict(args.labels),
        host=args.host,
        port=args.port,
        grpc_port=args.grpc_port,
        grace=args.grace,
    )
    limits = Limits(
        max_batch_size=args.max_batch_size,
        batch_timeout=args.batch_timeout / 1000,
        workers=args.workers or os.cpu_count() or 1,
        max_queue=args.max_queue,
        max_body=args.max_body * 2**20,
        max_instances=args.max_instances,
    )
    asyncio.run(serve(options, limits, announce))
    return 0


def announce(server):
    """Prints where the server listens."""
    model = f"{server.url}/v1/models/{server.model.name}"
    metrics = f"{server.url}/monitoring/prometheus/metrics"
    result(
        {"model": server.model.name, "page": f"{server.url}/", "rest": model, "grpc": server.grpc_address}
        | {"metrics": metrics},
        f"serving {server.model.name} from {server.options.directory}\n"
        f"  web page  {server.url}/\n"
        f"  REST      {model}:predict (state: {model}, signatures: {model}/metadata)\n"
        f"  gRPC      {server.grpc_address}\n"
        f"  metrics   {metrics}",
    )
    note(
        "This server is for trying a model and testing clients. In production, serve the same directory with "
        "TensorFlow Serving. Stop with Ctrl-C."
    )
