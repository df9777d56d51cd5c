"""Errors as HTTP responses, in the dialect of the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from service.errors import Overloaded, ServiceError, ShuttingDown, Unauthorized
from service.server.proxy import without_prefix
from service.server.request_record import RECORD
from service.server.routes import systemone, tei

SHAPES: dict[str, Callable[[ServiceError], tuple[int, Any]]] = {
    "/predict": tei.failed,
    "/v1/systemone": systemone.failed,
}
MAX_HEADER_LENGTH = 500


def response(scope: Scope, error: ServiceError) -> JSONResponse:
    """Return the response for an error: `{"error": ..., "request_id": ...}`, unless the path has a shape of its own."""
    record = scope.get(RECORD)
    if record is not None:
        record.error_code = error.code
    shape = SHAPES.get(without_prefix(scope))
    status, content = shape(error) if shape is not None else (error.status, {"error": str(error)})
    if record is not None and "error" in content:
        content["request_id"] = record.request_id
    printable = "".join(character if character.isprintable() else " " for character in str(error))
    line = " ".join(printable.split()).encode("ascii", "replace").decode("ascii")
    headers = _headers(error) | {"X-Error-Message": line[:MAX_HEADER_LENGTH]}
    return JSONResponse(_without_surrogates(content), status, headers=headers)


def _headers(error: ServiceError) -> dict[str, str]:
    """Return the headers of an error, whatever the dialect."""
    headers = dict(error.headers)
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, ShuttingDown):
        headers |= {"Retry-After": "5", "Connection": "close"}
    if type(error) is Unauthorized:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _without_surrogates(content: Any) -> Any:
    """Return the content with lone surrogates, which UTF-8 cannot encode, as question marks."""
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, dict):
        return {_without_surrogates(key): _without_surrogates(value) for key, value in content.items()}
    return [_without_surrogates(item) for item in content] if isinstance(content, list) else content
