"""The exception tree of the serving side.

    ServiceError
    ├── BadRequest      the request is wrong: names the field and what is accepted
    ├── TooLarge        the request is right, and more than this server takes at once
    ├── ModelNotFound   no model of that name is served: names those that are
    ├── Overloaded      more waits already than this server takes; the same request may pass in a moment
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


class BadRequest(ServiceError):
    """Something in the request cannot be used."""

    status = 400
    code = "bad_request"
    exit_code = 2


class TooLarge(ServiceError):
    """The request holds more than one request may."""

    status = 413
    code = "too_large"
    exit_code = 2


class ModelNotFound(ServiceError):
    """No model of this name is served."""

    status = 404
    code = "model_not_found"
    exit_code = 2


class Overloaded(ServiceError):
    """Too much waits already."""

    status = 429
    code = "overloaded"
    exit_code = 1


class BackendFailed(ServiceError):
    """The model itself failed, which is no fault of the request."""

    status = 500
    code = "backend_failed"
    exit_code = 1
