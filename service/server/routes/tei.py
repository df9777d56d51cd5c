"""text-embeddings-inference: `POST /predict`, and `GET /info`.

Knows: the bodies that clients of that server send, and the shapes they want back.
Does not know: how scores come about.

The same `{"inputs": ["a", "b"]}` that means two texts to the Hugging Face inference API means one pair here.
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import BackendFailed, BadRequest, Overloaded, RequestTimeout, ServiceError, ShuttingDown, TooLarge
from service.schema import Answer
from service.server.guard import call_of
from service.server.routes.classification import RequestRunner

VERSION = "1.8"
"""The release of text-embeddings-inference whose routes these are."""


class Body(BaseModel):
    """A request of text-embeddings-inference."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    inputs: Any
    """A text; a list of two texts, which is one pair; or a list of lists of one or two texts."""
    truncate: bool | None = None
    """Whether to cut what is too long (the default), or to refuse it."""
    truncation_direction: Literal["left", "right"] = "right"
    """The side that is cut; only `right` is offered."""
    raw_scores: bool = False
    """Give logits."""


OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": Body.model_json_schema()}}}}


def build(door: RequestRunner) -> APIRouter:
    """The routes of this dialect, for the default model."""
    router = APIRouter(tags=["text-embeddings-inference"])

    @router.post("/predict", openapi_extra=OPENAPI, summary="Classify, as text-embeddings-inference does")
    async def predict(request: Request) -> Response:
        """All labels of a text or pair, best first; a list of these for a batch."""
        begin = time.perf_counter()
        engine = await door.engine(request)
        body = _parsed(await door.body(request))
        many, given = _read(body.inputs)
        inputs = door.inputs(given)
        if engine.folder.is_zero_shot and any(item.pair is None for item in inputs):
            raise BadRequest(f"{engine.folder.path.name} weighs pairs of texts: send two texts, or choose --default")
        function: Any = "none" if body.raw_scores else "default"
        answers = await door.classify(request, engine, inputs, function=function)
        if body.truncate is False and any(one.truncated for one in answers):
            raise BadRequest("a text is longer than the model reads", hint="send truncate: true, or a shorter text")
        shaped = [_labels(one) for one in answers]
        return Response(
            json.dumps(shaped if many else shaped[0], ensure_ascii=False, allow_nan=False),
            media_type="application/json",
            headers=_times(request, time.perf_counter() - begin),
        )

    @router.get("/info", summary="The default model and the limits, as text-embeddings-inference says them")
    async def info(request: Request) -> dict[str, Any]:
        """What the default model is, and what a request may hold."""
        engine = await door.engine(request)
        folder, settings = engine.folder, door.settings
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
    """An error as this dialect says it: a status and a body."""
    kinds: dict[type[ServiceError], tuple[int, str]] = {
        Overloaded: (429, "Overloaded"),
        ShuttingDown: (503, "Unhealthy"),
        BackendFailed: (424, "Backend"),
        RequestTimeout: (504, "Backend"),
    }
    status, kind = next((found for one, found in kinds.items() if isinstance(error, one)), (error.status, "Validation"))
    if type(error) in (BadRequest, TooLarge):
        empty = "is an empty list" in str(error)
        body = "the body has more than" in str(error)
        status, kind = (400, "Empty") if empty else (413 if body else 422, "Validation")
    return status, {"error": str(error), "error_type": kind}


def _parsed(content: Any) -> Body:
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object with "inputs"')
    try:
        body = Body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if body.truncation_direction == "left":
        raise BadRequest("texts are cut on the right here: leave truncation_direction out")
    return body


def _read(inputs: Any) -> tuple[bool, list[Any]]:
    """Whether it is a batch, and its texts and pairs."""
    if isinstance(inputs, str):
        return False, [inputs]
    if isinstance(inputs, list) and all(isinstance(one, str) for one in inputs):
        return False, [_one(inputs)] if inputs else []
    if isinstance(inputs, list) and all(isinstance(one, list) for one in inputs):
        return True, [_one(one) for one in inputs]
    raise BadRequest('inputs must be a text, ["a", "b"] for a pair, or [["a"], ["a", "b"]] for a batch')


def _one(texts: list[Any]) -> Any:
    if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"a list of {len(texts)} is no text and no pair", hint='send ["a"], ["a", "b"] or a batch')
    return texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}


def _labels(answer: Answer) -> list[dict[str, Any]]:
    cut = {"truncated": True} if answer.truncated else {}
    return [{"score": one.score, "label": one.label} | cut for one in answer.predictions]


def _times(request: Request, seconds: float) -> dict[str, str]:
    work = call_of(request).work
    if work is None:
        return {}
    return {
        "x-compute-time": f"{1000 * seconds:.0f}",
        "x-compute-tokens": str(work.tokens),
        "x-queue-time": f"{1000 * work.waiting_s:.0f}",
        "x-tokenization-time": f"{1000 * work.tokenizing_s:.0f}",
        "x-inference-time": f"{1000 * work.computing_s:.0f}",
    }
