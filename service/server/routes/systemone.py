"""Typed questions about a state, as transformers serves them: `POST /v1/systemone`.

A choice or a score is a zero-shot question whose labels are the options; a noul (yes or no) has one label, or the two
that its criteria describe. Instructions come before the label in its sentence. Where transformers' server and the
conformance suite `jevcompat` differ, this follows the suite.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.concurrency import run_in_threadpool

from service.errors import (
    BadRequest,
    Forbidden,
    ModelNotFound,
    Overloaded,
    RequestTimeout,
    ServiceError,
    ShuttingDown,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import ZeroShotRequest
from service.server.admission import Admission
from service.server.limits import RequestLimits
from service.server.request_record import record_of
from service.server.routes.openapi import ResponseBody, errors, request_body

Content = str | dict[str, Any] | list[Any]

ALIAS = "jev-latest"
"""The name that clients of this dialect send by default: the default zero-shot model, unless a model has that name."""

DESCRIBED = {"description", "phrasings", "examples"}
"""Keys of an option's description that is read as a description; one with other keys is read as JSON."""

ERROR_TYPES: dict[type[ServiceError], str] = {
    Forbidden: "permission_error",
    Unauthorized: "authentication_error",
    ModelNotFound: "not_found",
    Overloaded: "rate_limit_error",
    ShuttingDown: "overloaded_error",
    RequestTimeout: "timeout_error",
    TooLarge: "request_too_large",
    UnsupportedMediaType: "invalid_request_error",
    ServiceError: "internal_error",
}
"""Error -> error_type; a subclass stands before its base."""


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

    @model_validator(mode="after")
    def _says_what_yes_means(self) -> Self:
        if not (self.instructions or (self.criteria or {}).get("true")):
            raise ValueError("a noul question needs instructions, or criteria that say what true means")
        return self


class Body(BaseModel):
    """A request with typed questions; further top-level fields are ignored."""

    model_config = ConfigDict(use_attribute_docstrings=True, strict=True)

    state: str | dict[str, Any] | list[Any]
    """What the questions are about: a text, or data, which the model reads as JSON."""
    questions: dict[str, Annotated[Choice | Score | Noul, Field(discriminator="type")]] = Field(
        min_length=1, max_length=64
    )
    """Questions by name."""
    model: str
    """A served zero-shot model; `jev-latest` is the default one."""


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


class ErrorInfo(ResponseBody):
    """What is wrong with a request as a whole."""

    error_type: str
    """The kind of the error."""
    message: str
    """What is wrong, and what to do."""


class SystemOneError(ResponseBody):
    """An error."""

    detail: ErrorInfo | list[ErrorDetail]
    """What is wrong: with the body, for each place (422); or otherwise."""


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
        if body.model == ALIAS and not admission.store.is_settled:
            await run_in_threadpool(admission.settle)
        engine = await admission.engine(request, _served_name(admission.store, body.model))
        if not engine.folder.is_zero_shot:
            message = f"{body.model} cannot classify by labels of your own: name a zero-shot model"
            raise Unprocessable(message, [{"loc": ["body", "model"], "msg": message, "type": "value_error"}])
        state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
        (item,) = limits.inputs([state])
        labels = {name: _labels(question) for name, question in body.questions.items()}
        limits.check_label_count(sum(map(len, labels.values())))
        questions = [_request(limits, labels[name], question) for name, question in body.questions.items()]
        answers = await admission.zero_shot(engine, [item.text] * len(questions), questions, request=request)
        record = record_of(request)
        content = {
            "model": record.model,
            "answers": {
                name: answer_of(question, _probabilities(question, answer.scores))
                for (name, question), answer in zip(body.questions.items(), answers, strict=True)
            },
            "usage": {"input_tokens": record.work.tokens if record.work is not None else 0, "output_tokens": 0},
        }
        # ASCII: question names are returned as they were sent, and may hold lone surrogates
        return Response(json.dumps(content, allow_nan=False), media_type="application/json")

    return router


def failed(error: ServiceError) -> tuple[int, Any]:
    """Return the status and the body of an error in this dialect."""
    if isinstance(error, Unprocessable):
        return 422, {"detail": error.detail}
    if isinstance(error, BadRequest) and not isinstance(error, UnsupportedMediaType):
        return 422, {"detail": [{"loc": ["body"], "msg": str(error), "type": "value_error"}]}
    error_type = next(name for kind, name in ERROR_TYPES.items() if isinstance(error, kind))
    return error.status, {"detail": {"error_type": error_type, "message": str(error)}}


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


def _served_name(store: ModelStore[Engine], name: str) -> str:
    """Return the served name that a request means."""
    if name != ALIAS or ALIAS in store.loaded():
        return name
    zero_shot = [loaded for loaded in store.loaded() if store.get(loaded).folder.is_zero_shot]
    if not zero_shot:
        raise ModelNotFound(f"{ALIAS} means the default zero-shot model, and none is served")
    return next((each for each in (store.default_name, "topics") if each in zero_shot), zero_shot[0])


def _probabilities(question: Choice | Score | Noul, scores: Sequence[float]) -> Sequence[float]:
    """Return the probabilities of a question's options; a single option or level is certain."""
    return (1.0,) if len(scores) == 1 and not isinstance(question, Noul) else scores


def _request(limits: RequestLimits, labels: list[Any], question: Choice | Score | Noul) -> ZeroShotRequest:
    """Return the zero-shot request of a question; options are no tree, whatever their names."""
    parsed = limits.described_labels(labels)
    return ZeroShotRequest(parsed.names, hypothesis_template=_template(question), texts=parsed.texts, beam=0)


def _labels(question: Choice | Score | Noul) -> list[Any]:
    if isinstance(question, Choice):
        return [_option(name, content) for name, content in question.criteria.items()]
    if isinstance(question, Score):
        return [_text(level) for level in question.criteria]
    criteria = question.criteria or {}
    yes, no = (_text(criteria.get(which)) for which in ("true", "false"))  # type: ignore[call-overload]
    return [yes or _text(question.instructions), *([no] if no else [])]


def _option(name: str, content: Content | None) -> Any:
    """Return an option as a label: `name: text`, or an object where it is described by one."""
    if isinstance(content, dict) and content and not set(content) - DESCRIBED:
        text = content.get("description")
        return content | {"name": name, "description": f"{name}: {text}" if isinstance(text, str) and text else text}
    return f"{name}: {_text(content)}" if content else name


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
