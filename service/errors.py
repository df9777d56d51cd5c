"""The exceptions of the serving side.

    ServiceError
    ├── BadRequest (also a ValueError)
    │   ├── EmptyInput
    │   └── UnsupportedMediaType
    ├── TooLarge
    │   └── BodyTooLarge
    ├── Unauthorized
    │   └── Forbidden
    ├── ModelNotFound
    ├── MethodNotAllowed
    ├── Overloaded
    │   ├── QueueTimeout
    │   └── RateLimited
    ├── ShuttingDown
    ├── RequestTimeout
    └── BackendFailed

Every message is a sentence or two that a person can act on. `status` is the HTTP status, `code` the name in an HTTP
body, `exit_code` the exit code of a command.
"""

from __future__ import annotations

from finetune.core.errors import ReheadError


class ServiceError(ReheadError):
    """Base of every error that is shown without a traceback; `hint` states what to do about it."""

    status = 500
    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.hint = hint
        self.headers: dict[str, str] = {}


class BadRequest(ServiceError, ValueError):
    """An argument or a field of the request is invalid; the message names it and what is accepted."""

    status = 400
    code = "bad_request"
    exit_code = 2


class EmptyInput(BadRequest):
    """The request holds no text."""


class UnsupportedMediaType(BadRequest):
    """The request's content type is not JSON."""

    status = 415
    code = "wrong_type"


class TooLarge(ServiceError):
    """The request exceeds a limit of this server."""

    status = 413
    code = "too_large"
    exit_code = 2


class BodyTooLarge(TooLarge):
    """The request body exceeds the limit in bytes."""


class Unauthorized(ServiceError):
    """The API key is missing or invalid."""

    status = 401
    code = "unauthorized"
    exit_code = 2


class Forbidden(Unauthorized):
    """The request names a host, or comes from an origin, that is not allowed."""

    status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    """No model of this name is served; the message lists those that are."""

    status = 404
    code = "model_not_found"
    exit_code = 2


class MethodNotAllowed(ServiceError):
    """The path does not answer this HTTP method; the header `Allow` lists those that it does."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.headers["Allow"] = allow


class Overloaded(ServiceError):
    """The queue or the number of concurrent requests is at its limit; retry after `retry_after_s` seconds."""

    status = 429
    code = "overloaded"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class QueueTimeout(Overloaded):
    """Timed out while waiting in the queue."""

    code = "expired"


class RateLimited(Overloaded):
    """The client exceeded its number of requests a minute."""

    code = "too_many_requests"


class ShuttingDown(ServiceError):
    """The server is shutting down and accepts no more requests."""

    status = 503
    code = "draining"


class RequestTimeout(ServiceError):
    """Timed out before the response was complete."""

    status = 504
    code = "late"


def request_timeout(seconds: float) -> RequestTimeout:
    """Return the error for a request that ran longer than `seconds`."""
    return RequestTimeout(
        f"the request exceeded the time limit of {seconds:g} s", hint="send fewer or shorter texts at once"
    )


class BackendFailed(ServiceError):
    """The model could not be loaded, failed, or returned a value that is not a number."""

    status = 500
    code = "backend_failed"
    exit_code = 1
