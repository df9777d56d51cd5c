"""Whether the server lives, can answer, and what it serves.

Knows: what probes and clients ask, and at which address.
Does not know: how anything is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from service.inference.engine import Engine
from service.inference.model_store import ModelStore, describe


def build(store: ModelStore[Engine], draining: Callable[[], bool]) -> APIRouter:
    """The probes, and the descriptions of models."""
    router = APIRouter(tags=["status"])

    # async, so that a probe never waits for a worker thread behind requests that compute

    async def health(response: Response) -> dict[str, Any]:
        """200 once at least one model can answer; 503 before, and while the server stops."""
        problem = "about to stop" if draining() else "" if store.loaded() else "no model is loaded"
        response.status_code = 503 if problem else 200
        return {"status": problem or "ok"}

    router.add_api_route("/health", health, summary="Can it answer?")
    router.add_api_route("/health/ready", health, summary="Can it answer? (for orchestrators)")

    @router.get("/health/live", summary="Is the process alive?")
    async def live() -> dict[str, str]:
        """200 as long as the process runs."""
        return {"status": "ok"}

    @router.get("/models", summary="What is served")
    def models() -> list[dict[str, Any]]:
        """Every model that is loaded, with its task and labels."""
        return [describe(name, store.get(name).folder) for name in store.loaded()]

    @router.get("/models/{name}/health", summary="Can this model answer?")
    def model_health(name: str) -> dict[str, Any]:
        """200 once the model is loaded; loads it if need be."""
        store.get(name)
        return {"status": "ok", "models": [name]}

    @router.get("/models/{name}/info", summary="What a model is")
    def info(name: str) -> dict[str, Any]:
        """The model's task, labels, base, size and headline metric."""
        folder = store.get(name).folder
        classifier = {"id2label": folder.labels.id2label, "label2id": folder.labels.label2id}
        return {"model_id": name, "model_type": {"classifier": classifier}} | describe(name, folder)

    return router
