"""The exception tree of the serving side.

    ServiceError
    ├── BadRequest      the request is wrong: names the field and what is accepted
    │   └── WrongType   its body is not said to be JSON
    ├── TooLarge        the request is right, and more than this server takes at once
    ├── NotAllowed      no key, or a wrong one
    │   └── Forbidden   asked from a place that may not ask
    ├── ModelNotFound   no model of that name is served: names those that are
    ├── Overloaded      more waits already than this server takes; the same request may pass in a moment
    │   ├── Expired     it waited too long, and was let go before the model saw it
    │   └── TooMany     this key asked more often than it may
    ├── Draining        the server stops, and takes nothing more
    ├── Late            the answer was not ready in time
    └── BackendFailed   the model could not be loaded, or answered with something that is not a number

Every message is a sentence or two that a person can act on. `status` is what HTTP answers, `exit_code` is what
a command leaves with.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of every error that is shown without a traceback; `hint` says what to do about it."""

    status = 500
    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.hint = hint
        self.headers: dict[str, str] = {}


class BadRequest(ServiceError, ValueError):
    """Something in the request cannot be used."""

    status = 400
    code = "bad_request"
    exit_code = 2


class WrongType(BadRequest):
    """A body of another kind than JSON."""

    status = 415
    code = "wrong_type"


class TooLarge(ServiceError):
    """The request holds more than one request may."""

    status = 413
    code = "too_large"
    exit_code = 2


class NotAllowed(ServiceError):
    """Who asks did not show a key that opens this server."""

    status = 401
    code = "unauthorized"
    exit_code = 2


class Forbidden(NotAllowed):
    """Asked under a name or from a page that this server does not answer."""

    status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    """No model of this name is served."""

    status = 404
    code = "model_not_found"
    exit_code = 2


class Overloaded(ServiceError):
    """Too much waits already; `retry_after_s` is when it should be over."""

    status = 429
    code = "overloaded"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Expired(Overloaded):
    """It waited as long as a request may wait."""

    code = "expired"


class TooMany(Overloaded):
    """More requests a minute than a key may send."""

    code = "too_many_requests"


class ShuttingDown(ServiceError):
    """The server is about to stop."""

    status = 503
    code = "draining"


class Late(ServiceError):
    """The request took longer than a request may."""

    status = 504
    code = "late"


def late_after(seconds: float) -> Late:
    """What is said of a request that took so long."""
    return Late(f"this took longer than the {seconds:g} s that a request may take", hint="ask for less at once")


class BackendFailed(ServiceError):
    """The model itself failed, which is no fault of the request."""

    status = 500
    code = "backend_failed"
    exit_code = 1
