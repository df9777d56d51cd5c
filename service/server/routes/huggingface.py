"""The Hugging Face inference API: `POST /models/{name}`, and `POST /` for the default model.

Knows: the bodies that clients of that API send, and the shapes they want back.
Does not know: how scores come about.

Clients are right here, not the published schema: text classification answers a list of lists, zero-shot a flat
list, and an object of lists for huggingface_hub below 1.1.5.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import BadRequest
from service.inference.engine import Engine
from service.schema import ATTENTION_MODES, FUNCTIONS, SCORERS, Answer, TextInput, ZeroShotRequest
from service.server.routes.classification import RequestRunner

FLAT_SINCE = (1, 1, 5)
"""The huggingface_hub release that began to read zero-shot answers as a flat list."""


class Parameters(BaseModel):
    """How to answer; `candidate_labels` makes it a zero-shot question."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    top_k: int | None = Field(default=None, ge=1)
    """How many labels to give for each text; all of them where it is left out."""
    function_to_apply: str | None = Field(default=None, json_schema_extra={"enum": list(FUNCTIONS)})
    """What turns logits into scores; what the model's task wants where it is left out."""
    candidate_labels: list[str] | list[list[str]] | str | None = None
    """Labels of your own, as a list or one string with commas between them; or a list of them for each text."""
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


def build(door: RequestRunner) -> APIRouter:
    """The routes of this dialect."""
    router = APIRouter(tags=["classify"])

    async def answer(name: str | None, request: Request) -> Response:
        engine = await door.engine(request, name)
        body = _parsed(await door.body(request))
        parameters, many = body.parameters or Parameters(), isinstance(body.inputs, list)
        inputs = door.inputs(body.inputs if many else [body.inputs])
        if parameters.candidate_labels is None:
            options = _options(engine, inputs, parameters)
            answers = await door.classify(request, engine, inputs, **options)
            return _response([_labels(one, parameters.top_k) for one in answers], answers)
        questions = _questions(door, inputs, parameters)
        answers = await door.zero_shot(request, engine, [item.text for item in inputs], questions)
        agent = request.headers.get("user-agent", "")
        shaped = [_zero_shot_shape(one, item.text, agent) for one, item in zip(answers, inputs, strict=True)]
        return _response(shaped if many else shaped[0], answers)

    @router.post("/models/{name}", openapi_extra=OPENAPI, summary="Classify with a model")
    async def named(name: str, request: Request) -> Response:
        """Scores of the model's labels (a list for each text), or of `candidate_labels` for an NLI model."""
        return await answer(name, request)

    @router.post("/", openapi_extra=OPENAPI, summary="Classify with the default model")
    async def default(request: Request) -> Response:
        """The same, for the default model."""
        return await answer(None, request)

    return router


def _parsed(content: Any) -> Body:
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object with "inputs"')
    try:
        return Body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        raise BadRequest(_unknown(first["loc"]) if unknown else f"{where}: {first['msg']}") from error


def _unknown(place: tuple[int | str, ...]) -> str:
    """What to say of a key that a request may not have, with the nearest that it may."""
    name, inside = str(place[-1]), place[0] == "parameters"
    known = list(Parameters.model_fields if inside else Body.model_fields)
    close = difflib.get_close_matches(name, known, n=1) or [one for one in known if name and one.startswith(name)]
    if not inside and name in Parameters.model_fields:
        hint = f"it goes inside parameters: {{'inputs': ..., 'parameters': {{{name!r}: ...}}}}"
    else:
        hint = f"did you mean {close[0]}?" if close else ""
    listed = f"parameters are {', '.join(Parameters.model_fields)}"
    where = ".".join(map(str, place))
    return f"{where}: Extra inputs are not permitted; {hint}{' ' if hint else ''}{listed}"


def _options(engine: Engine, inputs: list[TextInput], parameters: Parameters) -> dict[str, Any]:
    for field in ZERO_SHOT_ONLY:
        if getattr(parameters, field) is not None:
            raise BadRequest(f"parameters.{field} goes with parameters.candidate_labels, and there are none")
    if engine.folder.is_zero_shot and any(item.pair is None for item in inputs):
        raise BadRequest(
            f"{engine.folder.path.name} is a zero-shot model: send parameters.candidate_labels, or pairs of text and "
            "text_pair"
        )
    return {"function": parameters.function_to_apply or "default", "attention": parameters.attention}


def _questions(
    door: RequestRunner, inputs: list[TextInput], parameters: Parameters
) -> ZeroShotRequest | list[ZeroShotRequest]:
    for field in ("top_k", "function_to_apply"):
        if getattr(parameters, field) is not None:
            raise BadRequest(f"parameters.{field} does not go with parameters.candidate_labels")
    if any(item.pair is not None for item in inputs):
        raise BadRequest("candidate_labels go with single texts, and there is a text_pair")
    given: Any = parameters.candidate_labels

    def question(labels: Any) -> ZeroShotRequest:
        return ZeroShotRequest(
            door.labels(labels),
            bool(parameters.multi_label),
            parameters.hypothesis_template,
            parameters.scorer,  # type: ignore[arg-type]
            parameters.attention,  # type: ignore[arg-type]
        )

    if isinstance(given, str) or not given or isinstance(given[0], str):
        return question(given)
    if len(given) != len(inputs):
        raise BadRequest(f"candidate_labels holds {len(given)} lists, and inputs {len(inputs)} texts")
    door.desk.count_labels(sum(map(len, given)))
    return [question(labels) for labels in given]


def _labels(answer: Answer, top_k: int | None = None) -> list[dict[str, Any]]:
    cut = {"truncated": True} if answer.truncated else {}
    return [{"label": one.label, "score": one.score} | cut for one in answer.predictions[:top_k]]


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
