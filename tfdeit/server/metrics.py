"""The server's metrics, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one server.

    Args:
        in_flight: returns the number of requests accepted and not yet answered.
        waiting: returns the number of requests that wait for a batch.
    """

    def __init__(self, in_flight: Callable[[], int], waiting: Callable[[], int]):
        self.registry = registry = CollectorRegistry()
        request = ("entrypoint", "api")
        self.requests = Counter("tfdeit_requests", "Requests answered", (*request, "status"), registry=registry)
        self.seconds = Histogram(
            "tfdeit_request_seconds", "Time to answer a request", request, buckets=SECONDS, registry=registry
        )
        self.batch_rows = Histogram(
            "tfdeit_batch_rows", "Rows executed together", buckets=[2**i for i in range(11)], registry=registry
        )
        Gauge("tfdeit_requests_in_flight", "Requests not yet answered", registry=registry).set_function(in_flight)
        Gauge("tfdeit_queue_depth", "Requests that wait for a batch", registry=registry).set_function(waiting)

    def page(self) -> bytes:
        """Returns all metrics as text."""
        return generate_latest(self.registry)
