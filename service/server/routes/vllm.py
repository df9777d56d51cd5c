"""vLLM's classification API: `POST /classify`, also at `/v1/classify`, with label names beside the probabilities.

Fields of vLLM that change an answer are obeyed or refused; those that cannot change one are accepted.
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BadRequest
from service.schema import Answer, Function
from service.server.admission import Admission
from service.server.request_record import record_of
from service.server.routes.openapi import ResponseBody, errors, request_body


class Body(BaseModel):
    """A request of vLLM's classification API."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    model: str | None = None
    """A served name; default is the default model."""
    input: str | list[str]
    """A text, or a list of texts."""
    use_activation: bool | None = None
    """False returns logits in `probs`; default is the activation of the model's task."""
    activation: bool | None = None
    """An older name of `use_activation`."""
    softmax: bool | None = None
    """The oldest name of `use_activation`."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    """Tokens after which a text is truncated, special tokens included; -1 or none for as many as the model reads."""
    truncation_side: Literal["right"] | None = None
    """The side that is truncated; only `right` is supported."""
    add_special_tokens: Literal[True] | None = None
    """Only true is supported: the model was trained with special tokens."""
    user: str | None = None
    """Accepted for compatibility; it changes no answer."""
    priority: int | None = None
    """Accepted for compatibility; it changes no answer."""
    request_id: str | None = None
    """Accepted for compatibility; the header X-Request-Id sets the request's id."""
    cache_salt: str | None = None
    """Accepted for compatibility; it changes no answer."""

    @model_validator(mode="after")
    def _one_activation(self) -> Self:
        if len({self.use_activation, self.activation, self.softmax} - {None}) > 1:
            raise ValueError("use_activation, activation and softmax mean the same, and differ here: send one of them")
        return self

    @property
    def function(self) -> Function:
        """The function that turns logits into `probs`."""
        return "none" if False in (self.use_activation, self.activation, self.softmax) else "default"


class Item(ResponseBody):
    """The answer to one text."""

    index: int
    """The place of the text in `input`."""
    label: str
    """The most probable label."""
    probs: list[float]
    """Probabilities, in the order of `labels`; logits where they were requested."""
    num_classes: int
    """The number of labels."""
    truncated: bool = False
    """True where the text was longer than the model reads; left out otherwise."""
    language: str | None = None
    """Code of the text's language where the model was not trained for it; left out otherwise."""


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
    """Return the routes of this dialect."""
    router = APIRouter(tags=["vLLM"], responses=errors())

    async def classify(request: Request) -> Response:
        """The most probable label of each text and the probabilities of all, in the order of `labels`."""
        body = _parsed(await admission.limits.json(request))
        engine = await admission.engine(request, body.model)
        if engine.folder.is_zero_shot:
            name = engine.folder.path.name
            raise BadRequest(f"{name} is a zero-shot model: send it labels at /models/{name}")
        tokens = body.truncate_prompt_tokens
        inputs = admission.limits.inputs(
            [body.input] if isinstance(body.input, str) else body.input, any_length=tokens is not None
        )
        answers = await admission.classify(
            engine, inputs, request=request, function=body.function, max_length=None if tokens == -1 else tokens
        )
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

    for path in ("/classify", "/v1/classify"):
        router.add_api_route(
            path,
            classify,
            methods=["POST"],
            openapi_extra=OPENAPI,
            summary="Classify, in the dialect of vLLM",
            response_model=Classification,
        )
    return router


def _parsed(content: Any) -> Body:
    try:
        return Body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        if first["type"] == "extra_forbidden":
            raise BadRequest(f"{where} is not supported: the fields are {', '.join(Body.model_fields)}") from error
        raise BadRequest(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _item(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": index,
        "label": answer.best.label,
        "probs": list(answer.scores),
        "num_classes": len(answer.labels),
    } | answer.remarks
