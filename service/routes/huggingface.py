"""The Hugging Face inference API: `POST /models/{name}`, and `POST /` for the default model.

Knows: the bodies that clients of that API send, and the shapes they want back.
Does not know: how scores come about.

Clients are right here, not the published schema: text classification answers a list of lists, zero-shot a flat
list, and an object of lists for huggingface_hub below 1.1.5.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from finetune.encoding import without_surrogates
from service import zero_shot
from service.engine import Engine
from service.errors import BadRequest, TooLarge
from service.routes.connected import while_connected
from service.schema import ATTENTION_MODES, FUNCTIONS, SCORERS, Answer, TextInput, ZeroShotQuestion
from service.settings import ServeSettings
from service.store import ModelStore

FLAT_SINCE = (1, 1, 5)
"""The huggingface_hub release that began to read zero-shot answers as a flat list."""


class Parameters(BaseModel):
    """How to answer; `candidate_labels` makes it a zero-shot question."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    top_k: int | None = Field(default=None, ge=1)
    """How many labels to give for each text; all of them where it is left out."""
    function_to_apply: str | None = Field(default=None, json_schema_extra={"enum": list(FUNCTIONS)})
    """What turns logits into scores; what the model's task wants where it is left out."""
    candidate_labels: list[str] | str | None = None
    """Labels of your own, as a list or one string with commas between them."""
    multi_label: bool | None = None
    """Whether several of your labels may hold at once."""
    hypothesis_template: str | None = None
    """The sentence a label is put into, with exactly one `{}`."""
    scorer: str | None = Field(default=None, json_schema_extra={"enum": list(SCORERS)})
    """What your labels are weighed by; what the model records where it is left out."""
    attention: str | None = Field(default=None, json_schema_extra={"enum": list(ATTENTION_MODES)})
    """The attention mask; what the model records where it is left out."""


class Body(BaseModel):
    """A request of the Hugging Face inference API."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    inputs: Any
    """A text, `{"text": ..., "text_pair": ...}`, or a list of these."""
    parameters: Parameters | None = None
    """How to answer."""
    model: str | None = None
    """Sent by some clients; the address names the model."""
    options: dict[str, Any] | None = None
    """Sent by some clients for the hosted service (`wait_for_model`, `use_cache`); nothing here to wait for."""


ZERO_SHOT_ONLY = ("multi_label", "hypothesis_template", "scorer")
OPENAPI = {"requestBody": {"required": True, "content": {"application/json": {"schema": Body.model_json_schema()}}}}


def build(store: ModelStore[Engine], settings: ServeSettings) -> APIRouter:
    """The routes of this dialect over a store of engines."""
    router = APIRouter(tags=["classify"])

    async def answer(name: str, request: Request) -> Response:
        raw = await _body(request, settings.max_body_bytes)
        engine, asked = await run_in_threadpool(_asked, store, settings, name, raw)
        answers = await while_connected(request, asked.steps(engine))
        return _response(asked.shaped(answers, request.headers.get("user-agent", "")), answers)

    @router.post("/models/{name}", openapi_extra=OPENAPI, summary="Classify with a model")
    async def named(name: str, request: Request) -> Response:
        """Scores of the model's labels (a list for each text), or of `candidate_labels` for an NLI model."""
        return await answer(name, request)

    @router.post("/", openapi_extra=OPENAPI, summary="Classify with the default model")
    async def default(request: Request) -> Response:
        """The same, for the default model."""
        return await answer(store.default_name, request)

    return router


@dataclass(frozen=True)
class _Asked:
    """A request that was read: texts, and what they are asked."""

    inputs: list[TextInput]
    many: bool
    top_k: int | None
    question: ZeroShotQuestion | None
    options: dict[str, Any]

    async def steps(self, engine: Engine) -> list[Answer]:
        if self.question is not None:
            return await engine.azero_shot([item.text for item in self.inputs], self.question)
        return await engine.aclassify(self.inputs, **self.options)

    def shaped(self, answers: list[Answer], agent: str) -> Any:
        if self.question is None:
            return [_labels(one, self.top_k) for one in answers]
        shaped = [_zero_shot_shape(one, item.text, agent) for one, item in zip(answers, self.inputs, strict=True)]
        return shaped if self.many else shaped[0]


def _asked(store: ModelStore[Engine], settings: ServeSettings, name: str, raw: bytes) -> tuple[Engine, _Asked]:
    store.folder_path(name)  # an unknown name is said first, whatever the body
    body = _parse(raw)
    parameters = body.parameters or Parameters()
    many = isinstance(body.inputs, list)
    inputs = [_clean(TextInput.of(item)) for item in (body.inputs if many else [body.inputs])]
    if not inputs:
        raise BadRequest("inputs is an empty list: send at least one text")
    if len(inputs) > settings.max_texts:
        raise TooLarge(f"inputs holds {len(inputs)} texts, and a request may hold {settings.max_texts}")
    engine = store.get(name)
    if parameters.candidate_labels is not None:
        question = _question(settings, inputs, parameters)
        return engine, _Asked(inputs, many, None, question, {})
    options = _options(engine, name, inputs, parameters)
    return engine, _Asked(inputs, many, parameters.top_k, None, options)


def _options(engine: Engine, name: str, inputs: list[TextInput], parameters: Parameters) -> dict[str, Any]:
    for field in ZERO_SHOT_ONLY:
        if getattr(parameters, field) is not None:
            raise BadRequest(f"parameters.{field} goes with parameters.candidate_labels, and there are none")
    if engine.folder.is_zero_shot and any(item.pair is None for item in inputs):
        raise BadRequest(
            f"{name} is a zero-shot model: send parameters.candidate_labels, or pairs of text and text_pair"
        )
    return {"function": parameters.function_to_apply or "default", "attention": parameters.attention}


def _question(settings: ServeSettings, inputs: list[TextInput], parameters: Parameters) -> ZeroShotQuestion:
    for field in ("top_k", "function_to_apply"):
        if getattr(parameters, field) is not None:
            raise BadRequest(f"parameters.{field} does not go with parameters.candidate_labels")
    if any(item.pair is not None for item in inputs):
        raise BadRequest("candidate_labels go with single texts, and there is a text_pair")
    given = parameters.candidate_labels
    labels = zero_shot.parse_labels(
        without_surrogates(given) if isinstance(given, str) else [without_surrogates(label) for label in given or ()]
    )
    if len(labels) > settings.max_labels:
        raise TooLarge(f"there are {len(labels)} candidate_labels, and a request may hold {settings.max_labels}")
    if len(labels) * len(inputs) > settings.max_pairs:
        raise TooLarge(
            f"{len(inputs)} texts times {len(labels)} labels are {len(labels) * len(inputs)} pairs, "
            f"and a request may ask for {settings.max_pairs}"
        )
    return ZeroShotQuestion(
        labels,
        bool(parameters.multi_label),
        parameters.hypothesis_template,
        parameters.scorer,  # type: ignore[arg-type]
        parameters.attention,  # type: ignore[arg-type]
    )


async def _body(request: Request, limit: int) -> bytes:
    too_large = TooLarge(f"the body has more than {limit} bytes, which is the limit")
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect as error:
        raise BadRequest("the client left before its request was complete") from error
    return b"".join(parts)


def _parse(raw: bytes) -> Body:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object with "inputs"')
    try:
        return Body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = f"; parameters are {', '.join(Parameters.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise BadRequest(f"{where}: {first['msg']}{known}") from error


def _clean(item: TextInput) -> TextInput:
    return TextInput(without_surrogates(item.text), None if item.pair is None else without_surrogates(item.pair))


def _labels(answer: Answer, top_k: int | None = None) -> list[dict[str, Any]]:
    return [{"label": one.label, "score": one.score} for one in answer.predictions[:top_k]]


def _zero_shot_shape(answer: Answer, text: str, agent: str) -> Any:
    found = re.search(r"hf_hub/(\d+)\.(\d+)\.(\d+)", agent)
    if found is None or tuple(int(part) for part in found.groups()) >= FLAT_SINCE:
        return _labels(answer)
    return {
        "sequence": text,
        "labels": [one.label for one in answer.predictions],
        "scores": [one.score for one in answer.predictions],
    }


def _response(content: Any, answers: list[Answer]) -> Response:
    cut = sum(one.truncated for one in answers)
    warning = f"truncation; {cut} of {len(answers)} texts were longer than the model reads, and were cut"
    return Response(
        json.dumps(content, ensure_ascii=False, allow_nan=False),
        media_type="application/json",
        headers={"X-HF-Warning": warning} if cut else None,
    )
