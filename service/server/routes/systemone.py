"""Typed questions about a state, as transformers serves them: `POST /v1/systemone`.

A choice or a score is a zero-shot question whose labels are the options; a noul (yes or no) has one label, or the two
that its criteria describe. Instructions come before the label in its sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import BadRequest, ServiceError
from service.schema import ZeroShotRequest
from service.server.admission import Admission
from service.server.request_record import record_of
from service.server.routes.openapi import ResponseBody, errors, request_body

Content = str | dict[str, Any] | list[Any]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, strict=True)


class Choice(_Strict):
    """One of several options."""

    type: Literal["choice"]
    criteria: dict[str, Content | None] = Field(min_length=1)
    """Options, each with a description or null."""
    instructions: Content | None = None
    """The question."""


class Score(_Strict):
    """A level on a scale."""

    type: Literal["score"]
    criteria: list[Content] = Field(min_length=1)
    """Levels, the lowest first."""
    instructions: Content | None = None
    """The question."""


class Noul(_Strict):
    """Yes or no, as a probability."""

    type: Literal["noul"]
    criteria: dict[Literal["true", "false"], Content | None] | None = None
    """What yes and no mean."""
    instructions: Content | None = None
    """The question."""


class Body(_Strict):
    """A request with typed questions."""

    state: str | dict[str, Any] | list[Any]
    """What the questions are about: a text, or data, which the model reads as JSON."""
    questions: dict[str, Annotated[Choice | Score | Noul, Field(discriminator="type")]] = Field(
        min_length=1, max_length=64
    )
    """Questions by name."""
    model: str
    """A served zero-shot model."""


class ChoiceAnswer(ResponseBody):
    """The answer to a choice."""

    type: Literal["choice"]
    """The kind of the question."""
    choice: str
    """The most probable option."""
    confidence: float
    """How far its probability exceeds a blind guess, from 0 to 1."""
    probabilities: dict[str, float]
    """Probabilities by option."""


class ScoreAnswer(ResponseBody):
    """The answer to a score."""

    type: Literal["score"]
    """The kind of the question."""
    score: float
    """The expected level; levels count from 0."""
    legend: dict[str, Any]
    """Criteria by level."""
    confidence: float
    """How concentrated the probabilities are, from 0 to 1."""
    probabilities: dict[str, float]
    """Probabilities by level."""


class NoulAnswer(ResponseBody):
    """The answer to a yes-or-no question."""

    type: Literal["noul"]
    """The kind of the question."""
    noul: float
    """The probability of yes."""


class Usage(ResponseBody):
    """Tokens of the request."""

    input_tokens: int
    """Tokens of the state and the questions."""
    output_tokens: int
    """Always 0."""


class Answers(ResponseBody):
    """The answers to all questions."""

    model: str
    """The served name."""
    answers: dict[str, ChoiceAnswer | ScoreAnswer | NoulAnswer]
    """Answers by the name of the question."""
    usage: Usage
    """Tokens of the request."""


class ErrorDetail(ResponseBody):
    """What is wrong at one place of the body."""

    loc: list[str | int]
    """The place."""
    msg: str
    """What is wrong."""
    type: str
    """The kind of the error."""


class SystemOneError(ResponseBody):
    """An error."""

    detail: str | list[ErrorDetail]
    """What is wrong, as a sentence or for each place."""


OPENAPI = request_body(Body)


class Unprocessable(BadRequest):
    """A body that does not match the schema; `detail` says where."""

    status = 422

    def __init__(self, message: str, detail: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.detail = detail


def build(admission: Admission) -> APIRouter:
    """Return the route of this dialect."""
    router = APIRouter(tags=["System One"], responses=errors(SystemOneError))
    summary = "Answer typed questions about a text"

    @router.post("/v1/systemone", openapi_extra=OPENAPI, summary=summary, response_model=Answers)
    async def systemone(request: Request) -> Response:
        """An answer to each question, with the probabilities of its options."""
        limits = admission.limits
        body = _parsed(await limits.json(request))
        engine = await admission.engine(request, body.model)
        state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
        (item,) = limits.inputs([state])
        labels = {name: _labels(question) for name, question in body.questions.items()}
        limits.check_label_count(sum(map(len, labels.values())))
        questions = [
            ZeroShotRequest(limits.labels(labels[name]), hypothesis_template=_template(question))
            for name, question in body.questions.items()
        ]
        answers = await admission.zero_shot(engine, [item.text] * len(questions), questions, request=request)
        record = record_of(request)
        content = {
            "model": record.model,
            "answers": {
                name: answer_of(question, answer.scores)
                for (name, question), answer in zip(body.questions.items(), answers, strict=True)
            },
            "usage": {"input_tokens": record.work.tokens if record.work is not None else 0, "output_tokens": 0},
        }
        # ASCII: question names are returned as they were sent, and may hold lone surrogates
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")

    return router


def failed(error: ServiceError) -> tuple[int, Any]:
    """Return the status and the body of an error in this dialect."""
    detail: Any = error.detail if isinstance(error, Unprocessable) else str(error)
    return error.status, {"detail": detail}


def answer_of(question: Choice | Score | Noul, probabilities: Sequence[float]) -> dict[str, Any]:
    """Return the answer to a question from the probabilities of its options, in their order; a noul's yes comes first.

    The confidence of a choice is how far its probability exceeds that of a blind guess; of a score, how much closer
    the probabilities are to the most probable level than uniform ones.
    """
    count = len(probabilities)
    if isinstance(question, Noul):
        return {"type": "noul", "noul": probabilities[0]}
    options = list(question.criteria) if isinstance(question, Choice) else [str(level) for level in range(count)]
    by_option = dict(zip(options, probabilities, strict=True))
    best = max(range(count), key=probabilities.__getitem__)
    if isinstance(question, Choice):
        guess = 1 / count
        confidence = 1.0 if count == 1 else max(0.0, (probabilities[best] - guess) / (1 - guess))
        return {"type": "choice", "choice": options[best], "confidence": confidence, "probabilities": by_option}
    distance = sum(p * abs(level - best) for level, p in enumerate(probabilities))
    blind = sum(abs(level - (count - 1) / 2) for level in range(count)) / count
    return {
        "type": "score",
        "score": sum(level * p for level, p in enumerate(probabilities)),
        "legend": dict(zip(options, question.criteria, strict=True)),
        "confidence": 1.0 if count == 1 else max(0.0, 1 - distance / blind),
        "probabilities": by_option,
    }


def _parsed(content: Any) -> Body:
    try:
        return Body.model_validate(content)
    except ValidationError as error:
        detail = [
            {"loc": ["body", *item["loc"]], "msg": item["msg"], "type": item["type"]}
            for item in error.errors(include_url=False, include_input=False, include_context=False)[:20]
        ]
        raise Unprocessable("the body is not a System One request", detail) from error


def _labels(question: Choice | Score | Noul) -> list[str]:
    if isinstance(question, Choice):
        return [f"{name}: {_text(text)}" if text else name for name, text in question.criteria.items()]
    if isinstance(question, Score):
        return [_text(level) for level in question.criteria]
    criteria = question.criteria or {}
    yes, no = (_text(criteria.get(which)) for which in ("true", "false"))  # type: ignore[call-overload]
    if not yes and not question.instructions:
        raise BadRequest("a noul question needs instructions, or criteria that say what true means")
    return [yes or _text(question.instructions), *([no] if no else [])]


def _template(question: Choice | Score | Noul) -> str | None:
    """Return the template of a question; None for the model's own."""
    instructions = _text(question.instructions).replace("{", "(").replace("}", ")")
    if not instructions:
        return None
    alone = isinstance(question, Noul) and not (question.criteria or {}).get("true")
    return "{}" if alone else f"{instructions} {{}}"


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content, ensure_ascii=False)
