"""The exception tree of the serving side.

    ServiceError
    ├── BadRequest        invalid request: names the field and what is accepted
    │   ├── EmptyInput    no text to classify
    │   └── WrongType     the content type is not JSON
    ├── TooLarge          valid, but over a limit of this server
    │   └── BodyTooLarge  the body has too many bytes
    ├── NotAllowed        no API key, or an invalid one
    │   └── Forbidden     host or origin not allowed
    ├── ModelNotFound     no model of that name is served: names those that are
    ├── Overloaded        at capacity; the same request may succeed in a moment
    │   ├── Expired       queue timeout: dropped before the model ran it
    │   └── TooMany       rate limit of the key exceeded
    ├── ShuttingDown      the server drains and accepts no more requests
    ├── Late              deadline exceeded
    └── BackendFailed     the model could not be loaded, or its output is not finite

Every message is a sentence or two that a person can act on. `status` is the HTTP status, `exit_code` that of a command.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of every error that is shown without a traceback; `hint` says what to do."""

    status = 500
    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.hint = hint
        self.headers: dict[str, str] = {}


class BadRequest(ServiceError):
    """Invalid request."""

    status = 400
    code = "bad_request"
    exit_code = 2


class EmptyInput(BadRequest):
    """The request holds no text."""


class WrongType(BadRequest):
    """The content type is not JSON."""

    status = 415
    code = "wrong_type"


class TooLarge(ServiceError):
    """The request exceeds a size limit."""

    status = 413
    code = "too_large"
    exit_code = 2


class BodyTooLarge(TooLarge):
    """The request body exceeds the limit in bytes."""


class NotAllowed(ServiceError):
    """No API key, or an invalid one."""

    status = 401
    code = "unauthorized"
    exit_code = 2


class Forbidden(NotAllowed):
    """The host or the origin is not allowed."""

    status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    """No model of this name is served."""

    status = 404
    code = "model_not_found"
    exit_code = 2


class Overloaded(ServiceError):
    """At capacity; `retry_after_s` is when to try again."""

    status = 429
    code = "overloaded"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Expired(Overloaded):
    """Timed out in the queue, before the model ran it."""

    code = "expired"


class TooMany(Overloaded):
    """Rate limit of the key exceeded."""

    code = "too_many_requests"


class ShuttingDown(ServiceError):
    """The server is shutting down."""

    status = 503
    code = "draining"


class Late(ServiceError):
    """The deadline of the request passed."""

    status = 504
    code = "late"


def late_after(seconds: float) -> Late:
    """Return the error of a request that exceeded its deadline."""
    return Late(f"the request took longer than the {seconds:g} s it may take", hint="send less in one request")


class BackendFailed(ServiceError):
    """The model failed; the request is not at fault."""

    status = 500
    code = "backend_failed"
    exit_code = 1
