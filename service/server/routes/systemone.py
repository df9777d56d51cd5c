"""Typed questions about a state: `POST /v1/systemone`, as transformers serves it.

Knows: its bodies, which labels a question means, the arithmetic of its answers.
Does not know: how scores come about.

A choice or a score is a zero-shot question whose labels are the options; a noul (yes or no) asks for one label alone,
or for the two that its criteria describe. Instructions come before the label in its sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import BadRequest, ServiceError
from service.schema import TextInput, ZeroShotRequest
from service.server.guard import call_of
from service.server.routes.classification import RequestRunner

Content = str | dict[str, Any] | list[Any]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, strict=True)


class Choice(_Strict):
    """One of several options."""

    type: Literal["choice"]
    criteria: dict[str, Content | None] = Field(min_length=1)
    """Options, each with a description or null."""
    instructions: Content | None = None
    """What is asked."""


class Score(_Strict):
    """A level on a scale."""

    type: Literal["score"]
    criteria: list[Content] = Field(min_length=1)
    """Levels, the lowest first."""
    instructions: Content | None = None
    """What is asked."""


class Noul(_Strict):
    """Yes or no, as a probability."""

    type: Literal["noul"]
    criteria: dict[Literal["true", "false"], Content | None] | None = None
    """What yes and no mean."""
    instructions: Content | None = None
    """What is asked."""


class Body(_Strict):
    """A request with typed questions."""

    state: str | dict[str, Any] | list[Any]
    """What is asked about: a text, or data that is read as JSON."""
    questions: dict[str, Annotated[Choice | Score | Noul, Field(discriminator="type")]] = Field(
        min_length=1, max_length=64
    )
    """Questions by name."""
    model: str
    """A served zero-shot model."""


OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": Body.model_json_schema()}}}}


class Unprocessable(BadRequest):
    """A body that is not what this dialect takes; `detail` says where."""

    status = 422

    def __init__(self, message: str, detail: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.detail = detail


def build(door: RequestRunner) -> APIRouter:
    """The route of this dialect."""
    router = APIRouter(tags=["System One"])

    @router.post("/v1/systemone", openapi_extra=OPENAPI, summary="Typed questions about a text")
    async def systemone(request: Request) -> Response:
        """An answer to each question, with the probabilities of its options."""
        body = _parsed(await door.body(request))
        engine = await door.engine(request, body.model)
        state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
        inputs: list[TextInput] = door.inputs([state])
        labels = {name: _labels(question) for name, question in body.questions.items()}
        door.desk.count_labels(sum(map(len, labels.values())))
        asked = [
            ZeroShotRequest(door.labels(labels[name]), hypothesis_template=_template(question))
            for name, question in body.questions.items()
        ]
        answers = await door.zero_shot(request, engine, [inputs[0].text] * len(asked), asked)
        scores = [list(one.scores) for one in answers]
        call = call_of(request)
        found = {
            "model": call.model,
            "answers": {
                name: answer_of(question, one)
                for (name, question), one in zip(body.questions.items(), scores, strict=True)
            },
            "usage": {"input_tokens": call.work.tokens if call.work is not None else 0, "output_tokens": 0},
        }
        # names come back as they were sent, lone surrogates among them: escaped, any can be sent
        return Response(json.dumps(found, allow_nan=False), media_type="application/json")

    return router


def failed(error: ServiceError) -> tuple[int, Any]:
    """An error as this dialect says it: a status and a body."""
    detail: Any = error.detail if isinstance(error, Unprocessable) else str(error)
    return error.status, {"detail": detail}


def answer_of(question: Choice | Score | Noul, probabilities: Sequence[float]) -> dict[str, Any]:
    """The answer to a question, of the probabilities of its options in their order; of a noul's yes comes first.

    A choice's confidence is how far its probability stands above that of a blind guess; a score's how much nearer the
    probabilities lie to the likeliest level than if all were alike.
    """
    many = len(probabilities)
    if isinstance(question, Noul):
        return {"type": "noul", "noul": probabilities[0]}
    options = list(question.criteria) if isinstance(question, Choice) else [str(level) for level in range(many)]
    by_option = dict(zip(options, probabilities, strict=True))
    best = max(range(many), key=probabilities.__getitem__)
    if isinstance(question, Choice):
        guess = 1 / many
        confidence = 1.0 if many == 1 else max(0.0, (probabilities[best] - guess) / (1 - guess))
        return {"type": "choice", "choice": options[best], "confidence": confidence, "probabilities": by_option}
    distance = sum(one * abs(level - best) for level, one in enumerate(probabilities))
    blind = sum(abs(level - (many - 1) / 2) for level in range(many)) / many
    return {
        "type": "score",
        "score": sum(level * one for level, one in enumerate(probabilities)),
        "legend": dict(zip(options, question.criteria, strict=True)),
        "confidence": 1.0 if many == 1 else max(0.0, 1 - distance / blind),
        "probabilities": by_option,
    }


def _parsed(content: Any) -> Body:
    try:
        return Body.model_validate(content)
    except ValidationError as error:
        detail = [
            {"loc": ["body", *one["loc"]], "msg": one["msg"], "type": one["type"]}
            for one in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        raise Unprocessable("the body is not a System One request", detail) from error


def _labels(question: Choice | Score | Noul) -> list[str]:
    if isinstance(question, Choice):
        return [f"{name}: {_text(one)}" if one else name for name, one in question.criteria.items()]
    if isinstance(question, Score):
        return [_text(level) for level in question.criteria]
    criteria = question.criteria or {}
    yes, no = (_text(criteria.get(which)) for which in ("true", "false"))  # type: ignore[call-overload]
    if not yes and not question.instructions:
        raise BadRequest("a noul question needs instructions, or criteria that say what true means")
    return [yes or _text(question.instructions), *([no] if no else [])]


def _template(question: Choice | Score | Noul) -> str | None:
    """The sentence of a label; None for the model's own."""
    instructions = _text(question.instructions).replace("{", "(").replace("}", ")")
    if not instructions:
        return None
    alone = isinstance(question, Noul) and not (question.criteria or {}).get("true")
    return "{}" if alone else f"{instructions} {{}}"


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content, ensure_ascii=False)
