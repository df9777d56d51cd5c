"""text-embeddings-inference: `POST /predict`, and `GET /info`.

The same `{"inputs": ["a", "b"]}` that means two texts to the Hugging Face inference API means one pair here.
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import (
    BackendFailed,
    BadRequest,
    BodyTooLarge,
    EmptyInput,
    Overloaded,
    RequestTimeout,
    ServiceError,
    ShuttingDown,
    TooLarge,
    UnsupportedMediaType,
)
from service.schema import Answer, Function
from service.server.admission import Admission
from service.server.request_record import record_of
from service.server.routes.health import ModelType
from service.server.routes.openapi import LabelScore, ResponseBody, errors, request_body
from service.server.routes.truncation import refuse_truncated

VERSION = "1.8"
"""The release of text-embeddings-inference whose API this is."""

KINDS: dict[type[ServiceError], tuple[int, str]] = {
    EmptyInput: (400, "Empty"),
    UnsupportedMediaType: (415, "Validation"),
    BodyTooLarge: (413, "Validation"),
    BadRequest: (422, "Validation"),
    TooLarge: (422, "Validation"),
    Overloaded: (429, "Overloaded"),
    ShuttingDown: (503, "Unhealthy"),
    BackendFailed: (424, "Backend"),
    RequestTimeout: (504, "Backend"),
}
"""Error -> status and error_type; a subclass stands before its base."""


class Body(BaseModel):
    """A request of text-embeddings-inference."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    inputs: Any
    """A text; a list of two texts, which is one pair; or a list of lists of one or two texts."""
    truncate: bool | None = None
    """Whether to truncate a text that is too long (default), or to refuse it."""
    truncation_direction: Literal["left", "right"] = "right"
    """The side that is truncated; only `right` is supported."""
    raw_scores: bool = False
    """Return logits."""


class TeiError(ResponseBody):
    """An error."""

    error: str
    """What is wrong, and what to do."""
    error_type: Literal["Empty", "Validation", "Overloaded", "Unhealthy", "Backend"]
    """The kind of the error, as text-embeddings-inference names it."""
    request_id: str
    """The id of the request."""


class Info(ResponseBody):
    """The default model and the limits of the server."""

    model_id: str
    """The served name."""
    model_sha: None
    """Not recorded."""
    model_dtype: str
    """The precision of the runtime."""
    model_type: ModelType
    """Label ids."""
    max_concurrent_requests: int
    """Requests of one model that may run at once."""
    max_input_length: int
    """Tokens that the model reads of a text."""
    max_batch_tokens: int
    """Tokens of one batch."""
    max_client_batch_size: int
    """Texts of one request."""
    auto_truncate: bool
    """True: long texts are truncated."""
    tokenization_workers: int
    """Always 1."""
    version: str
    """The release of text-embeddings-inference that this API follows."""


Predictions = list[LabelScore] | list[list[LabelScore]]
OPENAPI = request_body(Body)


def build(admission: Admission) -> APIRouter:
    """Return the routes of this dialect, for the default model."""
    router = APIRouter(tags=["text-embeddings-inference"], responses=errors(TeiError))
    summary = "Classify, in the dialect of text-embeddings-inference"

    @router.post("/predict", openapi_extra=OPENAPI, summary=summary, response_model=Predictions)
    async def predict(request: Request) -> Response:
        """All labels of a text or pair, best first; a list of these for a batch."""
        begin = time.perf_counter()
        body = _parsed(await admission.limits.json(request))
        engine = await admission.engine(request)
        is_batch, items = _read(body.inputs)
        inputs = admission.limits.inputs(items, any_length=body.truncate is not False)
        if engine.folder.is_zero_shot and any(item.pair is None for item in inputs):
            raise BadRequest(f"{engine.folder.path.name} scores pairs of texts: send two texts, or set --default")
        function: Function = "none" if body.raw_scores else "default"
        answers = await admission.classify(engine, inputs, request=request, function=function)
        if body.truncate is False:
            refuse_truncated(answers, option="truncate: true")
        rows = [_labels(answer) for answer in answers]
        return Response(
            json.dumps(rows if is_batch else rows[0], ensure_ascii=False, allow_nan=False),
            media_type="application/json",
            headers=_times(request, time.perf_counter() - begin),
        )

    @router.get("/info", summary="The default model and the limits", response_model=Info, responses=errors())
    async def info(request: Request) -> dict[str, Any]:
        """The default model, and what a request may hold."""
        engine = await admission.engine(request)
        folder, settings = engine.folder, admission.settings
        return {
            "model_id": folder.path.name,
            "model_sha": None,
            "model_dtype": engine.backend.precision,
            "model_type": {"classifier": {"id2label": folder.labels.id2label, "label2id": folder.labels.label2id}},
            "max_concurrent_requests": settings.max_concurrent,
            "max_input_length": engine.max_length,
            "max_batch_tokens": engine.backend.batch.tokens,
            "max_client_batch_size": settings.max_texts,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": VERSION,
        }

    return router


def failed(error: ServiceError) -> tuple[int, Any]:
    """Return the status and the body of an error in this dialect."""
    kinds = (pair for kind, pair in KINDS.items() if isinstance(error, kind))
    status, error_type = next(kinds, (error.status, "Validation"))
    return status, {"error": str(error), "error_type": error_type}


def _parsed(content: Any) -> Body:
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object with "inputs"')
    try:
        body = Body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if body.truncation_direction == "left":
        raise BadRequest("truncation_direction left is not supported: leave it out")
    return body


def _read(inputs: Any) -> tuple[bool, list[Any]]:
    """Return whether the inputs are a batch, and its texts and pairs."""
    if isinstance(inputs, str):
        return False, [inputs]
    if isinstance(inputs, list) and all(isinstance(item, str) for item in inputs):
        return False, [_item(inputs)] if inputs else []
    if isinstance(inputs, list) and all(isinstance(item, list) for item in inputs):
        return True, [_item(item) for item in inputs]
    raise BadRequest('inputs must be a text, ["a", "b"] for a pair, or [["a"], ["a", "b"]] for a batch')


def _item(texts: list[Any]) -> Any:
    if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
        raise BadRequest(
            f"a list of {len(texts)} is neither a text nor a pair", hint='send ["a"], ["a", "b"] or a batch'
        )
    return texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}


def _labels(answer: Answer) -> list[dict[str, Any]]:
    return [{"score": row.score, "label": row.label} | answer.remarks for row in answer.predictions]


def _times(request: Request, seconds: float) -> dict[str, str]:
    work = record_of(request).work
    if work is None:
        return {}
    return {
        "x-compute-time": f"{1000 * seconds:.0f}",
        "x-compute-tokens": str(work.tokens),
        "x-queue-time": f"{1000 * work.waiting_s:.0f}",
        "x-tokenization-time": f"{1000 * work.tokenizing_s:.0f}",
        "x-inference-time": f"{1000 * work.computing_s:.0f}",
    }
