"""`GET /metrics`: the server's metrics in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.server.routes.openapi import errors


def build(page: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """Return the route, which answers what `page` returns."""
    router = APIRouter(tags=["status"], responses=errors())

    @router.get("/metrics", summary="Metrics, for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Requests, refusals, seconds, batches, the queue, predicted labels and scores."""
        return Response(await page(), media_type=CONTENT_TYPE_LATEST)

    return router
