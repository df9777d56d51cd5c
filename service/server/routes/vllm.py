"""The vLLM shape: `POST /v1/classify`.

Knows: its bodies and answers; class names travel too.
Does not know: how scores come about.
"""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.errors import BadRequest
from service.schema import Answer
from service.server.guard import call_of
from service.server.routes.classification import RequestRunner


class Body(BaseModel):
    """A request of vLLM's classification API."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str | None = None
    """A served name; the default model where it is left out."""
    input: str | list[str]
    """A text, or a list of texts."""


OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": Body.model_json_schema()}}}}


def build(door: RequestRunner) -> APIRouter:
    """The route of this dialect."""
    router = APIRouter(tags=["vLLM"])

    @router.post("/v1/classify", openapi_extra=OPENAPI, summary="Classify, as vLLM does")
    async def classify(request: Request) -> Response:
        """The likeliest label of each text and the probabilities of all, in the order of `labels`."""
        content = await door.body(request)
        try:
            body = Body.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from error
        engine = await door.engine(request, body.model)
        if engine.folder.is_zero_shot:
            raise BadRequest(f"{engine.folder.path.name} is a zero-shot model: ask it at /models/NAME with labels")
        inputs = door.inputs([body.input] if isinstance(body.input, str) else body.input)
        answers = await door.classify(request, engine, inputs)
        call = call_of(request)
        tokens = call.work.tokens if call.work is not None else 0
        found = {
            "id": f"classify-{call.identity}",
            "object": "list",
            "created": int(time.time()),
            "model": call.model,
            "data": [_item(index, answer) for index, answer in enumerate(answers)],
            "labels": engine.folder.labels.names,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
        return Response(json.dumps(found, ensure_ascii=False, allow_nan=False), media_type="application/json")

    return router


def _item(index: int, answer: Answer) -> dict[str, Any]:
    cut = {"truncated": True} if answer.truncated else {}
    return {
        "index": index,
        "label": answer.best.label,
        "probs": list(answer.scores),
        "num_classes": len(answer.labels),
    } | cut
