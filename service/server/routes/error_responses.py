"""How an error looks on the wire: in the dialect of the address that was asked.

Knows: which dialect says errors in its own way.
Does not know: why anything failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from service.errors import ServiceError
from service.server.guard import CALL, headers_of
from service.server.routes import systemone, tei

SHAPES: dict[str, Callable[[ServiceError], tuple[int, Any]]] = {
    "/predict": tei.failed,
    "/v1/systemone": systemone.failed,
}


def response(scope: Scope, error: ServiceError) -> JSONResponse:
    """The answer to a request that failed; elsewhere it is `{"error": ..., "request_id": ...}`."""
    call = scope.get(CALL)
    if call is not None:
        call.reason = error.code
    shape = SHAPES.get(scope["path"])
    status, content = shape(error) if shape is not None else (error.status, {"error": str(error)})
    if call is not None and "error" in content:
        content["request_id"] = call.identity
    plain = "".join(one if one.isprintable() else " " for one in str(error))
    one_line = " ".join(plain.split()).encode("ascii", "replace").decode("ascii")
    return JSONResponse(_clean(content), status, headers=headers_of(error) | {"X-Error-Message": one_line[:500]})


def _clean(content: Any) -> Any:
    """Without the lone surrogates that no answer can hold."""
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, dict):
        return {_clean(key): _clean(value) for key, value in content.items()}
    return [_clean(one) for one in content] if isinstance(content, list) else content
