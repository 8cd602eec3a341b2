"""TensorFlow Serving's REST API, and the web page."""

import asyncio
import base64
import functools
import hashlib
import html
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from prometheus_client import CONTENT_TYPE_LATEST
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from tfdeit.server import json_tensors
from tfdeit.server.errors import ServingError, invalid
from tfdeit.server.service import Service, aside

TARGET = r"(?i:/v1/models)/([^/:]+)(?:(?i:/versions)/(\d+)|(?i:/labels)/([^/:]+))?"
CALL = re.compile(TARGET + r":((?i:predict|classify|regress))")
QUESTION = re.compile(TARGET + r"(?:/((?i:metadata)))?")
BODY_TIMEOUT = 60.0  # seconds for a body to arrive


def build_app(service: Service) -> web.Application:
    """Returns the application that answers REST requests."""
    page, policy = load_page(service.model.name)

    async def show_page(request):
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=policy)

    async def show_health(request):
        return web.Response(text="draining\n" if service.draining else "ok\n", status=503 if service.draining else 200)

    async def show_metrics(request):
        return web.Response(body=service.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @web.middleware
    async def as_json(request, handler):
        """Returns errors as TensorFlow Serving does; makes clients disconnect while the server is stopping."""
        try:
            response = await handler(request)
        except ServingError as error:
            response = json_response(json_tensors.dump({"error": str(error)}), error.http_status)
        except web.HTTPException as error:
            response = json_response(json_tensors.dump({"error": f"{error.reason}: {request.path}"}), error.status)
        if service.draining:
            response.force_close()
        return response

    app = web.Application(middlewares=[as_json], client_max_size=service.limits.max_body)
    app.router.add_get("/", show_page)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/monitoring/prometheus/metrics", show_metrics)
    app.router.add_route("*", "/{version:[vV]1}{rest:(?s:/.*)}", functools.partial(answer, service))
    return app


async def answer(service: Service, request: web.Request) -> web.Response:
    """Answers a request to the model."""
    path = request.rel_url.raw_path
    pattern = {"GET": QUESTION, "POST": CALL}.get(request.method)
    match = pattern and pattern.fullmatch(path)
    api = (match[4] or "status").lower() if match else "malformed"
    with service.account("REST", api, request.remote or "-"):
        if not match:
            raise invalid(
                "Expected GET /v1/models/M[/metadata], or POST /v1/models/M:predict or M:classify, where M is a model "
                f"name, optionally with /versions/N or /labels/L. Received: {request.method} {path}"
            )
        if api == "regress":
            raise ServingError(StatusCode.UNIMPLEMENTED, "Expected :predict or :classify. Received: :regress")
        if api in CALLS:
            body = await read_body(request, service.limits.max_body)
            return json_response(await CALLS[api](service, model_spec(match), body))
        spec = model_spec(match)
        reply = metadata(service, spec) if api == "metadata" else as_dict(service.status(spec))
        return json_response(json_tensors.dump(reply))


async def predict(service: Service, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    """Answers :predict."""
    servable = service.find(spec)

    def read():
        document, name = json_tensors.parse(body)
        signature = servable.find_signature(name)
        return signature, *json_tensors.read_predict(document, signature)

    signature, inputs, by_row = await aside(len(body), read)
    outputs = await service.predict(servable, signature, inputs)
    size = sum(value.size for value in outputs.values())
    return await aside(size, lambda: json_tensors.write_predict(outputs, by_row))


async def classify(service: Service, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    """Answers :classify."""
    servable = service.find(spec)

    def read():
        document, name = json_tensors.parse(body)
        return servable.find_signature(name), json_tensors.read_examples(document)

    signature, examples = await aside(len(body), read)
    return json_tensors.write_classify(*await service.classify(servable, signature, examples))


CALLS: dict[str, Callable[[Service, model_pb2.ModelSpec, bytes], Awaitable[bytes]]] = {
    "predict": predict,
    "classify": classify,
}


def metadata(service: Service, spec: model_pb2.ModelSpec) -> dict:
    """Returns the answer to GET /v1/models/M/metadata."""
    response = service.metadata(spec, ["signature_def"])
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return {"model_spec": as_dict(response.model_spec), "metadata": {"signature_def": as_dict(signatures)}}


def as_dict(message) -> dict:
    """Returns a message as TensorFlow Serving writes it: with the names in the .proto file, and with defaults."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def model_spec(match: re.Match) -> model_pb2.ModelSpec:
    """Returns the model, version and label of a URL."""
    name, version, label = match.group(1, 2, 3)
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version:
        version = version.lstrip("0") or "0"  # any number of leading zeros is allowed
        if int(version[:20]) >= 2**63:
            raise invalid(f"Expected a version below 2^63. Received: {version}")
        spec.version.value = int(version)
    elif label:
        spec.version_label = unquote(label)
    return spec


async def read_body(request: web.Request, limit: int) -> bytes:
    """Returns the body of a request, decompressed.

    Raises:
        ServingError: if it is too large, does not arrive, or cannot be decompressed.
    """
    try:
        if (request.content_length or 0) > limit:
            raise web.HTTPRequestEntityTooLarge(limit)
        return await asyncio.wait_for(request.read(), BODY_TIMEOUT)
    except web.HTTPRequestEntityTooLarge:
        message = f"Expected a body of at most {limit} bytes. Received: a larger one"
        raise ServingError(StatusCode.RESOURCE_EXHAUSTED, message, 413) from None
    except asyncio.TimeoutError:
        message = f"Expected the body within {BODY_TIMEOUT:.0f} s. Received: an incomplete one"
        raise ServingError(StatusCode.DEADLINE_EXCEEDED, message, 408) from None
    except web.RequestPayloadError as error:
        raise invalid(f"Expected a complete body, encoded as its header says. Received: {error}") from None


def json_response(body: bytes, status: int = 200) -> web.Response:
    """Returns a response of type JSON."""
    return web.Response(body=body, status=status, content_type="application/json")


def load_page(model_name: str) -> tuple[bytes, dict[str, str]]:
    """Returns the web page, and headers that allow its own script and style and nothing else."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    sources = {}
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        sources[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{sources['script']}'; style-src 'sha256-{sources['style']}'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return text.replace("{{model}}", html.escape(model_name)).encode(), headers
