"""Errors of requests, with the status codes that gRPC and TensorFlow share."""

from grpc import StatusCode

# As in TensorFlow Serving's http_server.cc; codes that are not listed are 500.
HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
CODE_OF_NUMBER = {code.value[0]: code for code in StatusCode}


class ServingError(Exception):
    """A request that cannot be answered.

    Args:
        code: the reason, for programs.
        message: the reason, for people: what was expected, what was received, what to do.
        http_status: for REST; None means the code's own.
    """

    def __init__(self, code: StatusCode, message: str, http_status: int | None = None):
        super().__init__(message)
        self.code = code
        self.http_status = http_status or HTTP_STATUS.get(code, 500)


def invalid(message: str) -> ServingError:
    """Returns the error for a request that is wrong in itself, whatever the state of the server."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)
