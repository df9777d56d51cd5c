"""vLLM's classification API: `POST /v1/classify`. Label names are returned beside the probabilities."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import BadRequest
from service.schema import Answer
from service.server.admission import Admission
from service.server.request_record import record_of
from service.server.routes.openapi import ResponseBody, errors, request_body


class Body(BaseModel):
    """A request of vLLM's classification API."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str | None = None
    """A served name; default is the default model."""
    input: str | list[str]
    """A text, or a list of texts."""


class Item(ResponseBody):
    """The answer to one text."""

    index: int
    """The place of the text in `input`."""
    label: str
    """The most probable label."""
    probs: list[float]
    """Probabilities, in the order of `labels`."""
    num_classes: int
    """The number of labels."""
    truncated: bool = False
    """True where the text was longer than the model reads; left out otherwise."""


class Usage(ResponseBody):
    """Tokens of the request."""

    prompt_tokens: int
    """Tokens of the texts."""
    total_tokens: int
    """The same."""
    completion_tokens: int
    """Always 0."""


class Classification(ResponseBody):
    """The answers to all texts."""

    id: str
    """`classify-` and the id of the request."""
    object: str
    """Always `list`."""
    created: int
    """Unix time in seconds."""
    model: str
    """The served name."""
    data: list[Item]
    """One item for each text."""
    labels: list[str]
    """Label names."""
    usage: Usage
    """Tokens of the request."""


OPENAPI = request_body(Body)


def build(admission: Admission) -> APIRouter:
    """Return the route of this dialect."""
    router = APIRouter(tags=["vLLM"], responses=errors())
    summary = "Classify, in the dialect of vLLM"

    @router.post("/v1/classify", openapi_extra=OPENAPI, summary=summary, response_model=Classification)
    async def classify(request: Request) -> Response:
        """The most probable label of each text and the probabilities of all, in the order of `labels`."""
        content = await admission.limits.json(request)
        try:
            body = Body.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from error
        engine = await admission.engine(request, body.model)
        if engine.folder.is_zero_shot:
            name = engine.folder.path.name
            raise BadRequest(f"{name} is a zero-shot model: send it labels at /models/{name}")
        inputs = admission.limits.inputs([body.input] if isinstance(body.input, str) else body.input)
        answers = await admission.classify(engine, inputs, request=request)
        record = record_of(request)
        tokens = record.work.tokens if record.work is not None else 0
        content = {
            "id": f"classify-{record.request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": record.model,
            "data": [_item(index, answer) for index, answer in enumerate(answers)],
            "labels": engine.folder.labels.names,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
        return Response(json.dumps(content, ensure_ascii=False, allow_nan=False), media_type="application/json")

    return router


def _item(index: int, answer: Answer) -> dict[str, Any]:
    cut = {"truncated": True} if answer.truncated else {}
    return {
        "index": index,
        "label": answer.best.label,
        "probs": list(answer.scores),
        "num_classes": len(answer.labels),
    } | cut
