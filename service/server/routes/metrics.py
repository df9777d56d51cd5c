"""`GET /metrics`: the server's counts in Prometheus' form."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.server.telemetry import Telemetry


def build(telemetry: Telemetry) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["status"])

    @router.get("/metrics", summary="Counts, for Prometheus")
    async def metrics() -> Response:
        """Requests, refusals, seconds, batches, the queue, what models answered."""
        return Response(telemetry.page(), media_type=CONTENT_TYPE_LATEST)

    return router
