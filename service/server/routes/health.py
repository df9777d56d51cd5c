"""Probes, and the list of served models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Response

from service.inference.engine import Engine
from service.inference.model_store import describe
from service.server.admission import Admission
from service.server.routes.openapi import ResponseBody, errors


class Health(ResponseBody):
    """The answer of a probe."""

    status: str
    """`ok`, or why the server cannot answer."""


class ModelHealth(ResponseBody):
    """The answer of a model's probe."""

    status: str
    """`ok`."""
    models: list[str]
    """The model's name."""


class Metric(ResponseBody):
    """A figure of a model's evaluation."""

    name: str
    """The metric."""
    value: float
    """Its value."""
    split: str | None = None
    """The split it was measured on; null where none was recorded."""
    rows: int | None = None
    """The rows of that split; null where none was recorded."""


class ModelEntry(ResponseBody):
    """A served model."""

    name: str
    """The served name."""
    task: str
    """`binary`, `multiclass`, `multi_label`, `regression`, `zero-shot` ..."""
    labels: list[str]
    """Label names, in the order of the model's outputs."""
    base: str
    """The checkpoint or model type it was made from."""
    size_bytes: int
    """Bytes of the model folder."""
    metric: Metric | None
    """The headline metric; null where none was recorded."""


class Classifier(ResponseBody):
    """Label ids, as text-embeddings-inference reports them."""

    id2label: dict[int, str]
    """Label names by id."""
    label2id: dict[str, int]
    """Ids by label name."""


class ModelType(ResponseBody):
    """The kind of a model, as text-embeddings-inference reports it."""

    classifier: Classifier
    """The labels of a classifier."""


class ModelInfo(ModelEntry):
    """A served model with its label ids."""

    model_id: str
    """The served name."""
    model_type: ModelType
    """Label ids."""


class OpenAIModel(ResponseBody):
    """A served model, as vLLM and other servers of OpenAI's API list it."""

    id: str
    """The served name."""
    object: Literal["model"]
    """Always `model`."""
    created: int
    """Unix time at which its weights were written."""
    owned_by: str
    """Always `rehead`."""
    root: str
    """The served name."""
    parent: None
    """Not used."""
    max_model_len: int
    """Tokens that the model reads of a text."""


class TypedModel(ResponseBody):
    """A zero-shot model, as clients of `/v1/systemone` read it."""

    name: str
    """The served name."""
    description: str
    """What it is."""
    release_date: str
    """The day on which its weights were written."""


class ModelList(ResponseBody):
    """The served models, in the shapes of two kinds of clients."""

    object: Literal["list"]
    """Always `list`."""
    data: list[OpenAIModel]
    """Every loaded model, for clients of vLLM."""
    models: list[TypedModel]
    """The zero-shot models among them, which answer typed questions."""


def build(admission: Admission) -> APIRouter:
    """Return the routes of probes and model descriptions."""
    router = APIRouter(tags=["status"], responses=errors())
    store = admission.store

    # async, so that a probe never waits for a worker thread behind requests that compute

    async def health(response: Response) -> dict[str, Any]:
        """200 once at least one model can answer; 503 before, and while the server shuts down."""
        problem = "shutting down" if admission.draining else "" if store.loaded() else "no model is loaded"
        response.status_code = 503 if problem else 200
        return {"status": problem or "ok"}

    unready: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "The server cannot answer."}}
    for path, summary in (("/health", "Readiness"), ("/health/ready", "Readiness, for orchestrators")):
        router.add_api_route(path, health, summary=summary, response_model=Health, responses=unready)
        router.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)

    @router.get("/health/live", summary="Liveness", response_model=Health)
    async def live() -> dict[str, str]:
        """200 as long as the process runs."""
        return {"status": "ok"}

    router.add_api_route("/health/live", live, methods=["HEAD"], include_in_schema=False)

    @router.get("/models", summary="Served models", response_model=list[ModelEntry])
    def models() -> list[dict[str, Any]]:
        """Every model that could be loaded, with its task and labels."""
        admission.settle()
        return [describe(name, store.get(name).folder) for name in store.loaded()]

    @router.get("/v1/models", summary="Served models, for clients of vLLM and of typed questions")
    def listed() -> ModelList:
        """Every model that could be loaded in `data`, and in `models` those that answer typed questions."""
        admission.settle()
        engines = {name: store.get(name) for name in store.loaded()}
        return ModelList(
            object="list",
            data=[_openai(name, engine) for name, engine in engines.items()],
            models=[_typed(name, engine) for name, engine in engines.items() if engine.folder.is_zero_shot],
        )

    @router.get("/models/{name}/health", summary="Readiness of a model", response_model=ModelHealth)
    def model_health(name: str) -> dict[str, Any]:
        """200 once the model is loaded; loads it if necessary."""
        store.get(name)
        return {"status": "ok", "models": [name]}

    router.add_api_route("/models/{name}/health", model_health, methods=["HEAD"], include_in_schema=False)

    @router.get("/models/{name}/info", summary="Description of a model", response_model=ModelInfo)
    def info(name: str) -> dict[str, Any]:
        """The model's task, labels, base, size and headline metric."""
        folder = store.get(name).folder
        classifier = {"id2label": folder.labels.id2label, "label2id": folder.labels.label2id}
        return {"model_id": name, "model_type": {"classifier": classifier}} | describe(name, folder)

    return router


def _openai(name: str, engine: Engine) -> OpenAIModel:
    return OpenAIModel(
        id=name,
        object="model",
        created=engine.folder.written_at,
        owned_by="rehead",
        root=name,
        parent=None,
        max_model_len=engine.max_length,
    )


def _typed(name: str, engine: Engine) -> TypedModel:
    base = describe(name, engine.folder)["base"]
    return TypedModel(
        name=name,
        description=f"a zero-shot text classifier by natural-language inference, made from {base}",
        release_date=datetime.fromtimestamp(engine.folder.written_at, UTC).date().isoformat(),
    )
