"""The Hugging Face inference API: `POST /models/{name}`, and `POST /` for the default model.

Its clients are right where they differ from the published schema: text classification returns a list of lists,
zero-shot classification a flat list, and an object of lists for huggingface_hub below 1.1.5.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from service.batch.scoring_task import require_sets
from service.errors import BadRequest
from service.inference.engine import Engine
from service.inference.hierarchy import MAX_BEAM
from service.schema import (
    ATTENTION_MODES,
    DEFAULT_BEAM,
    FUNCTIONS,
    SCORERS,
    Answer,
    TextInput,
    ZeroShotRequest,
    checked_window,
)
from service.server.admission import Admission
from service.server.limits import RequestLimits
from service.server.routes.openapi import LabelScore, ResponseBody, errors, request_body
from service.server.routes.truncation import refuse_truncated

FLAT_SINCE = (1, 1, 5)
"""The first huggingface_hub release that reads zero-shot answers as a flat list."""


class LabelObject(BaseModel):
    """A label with what describes it; answers hold its name."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """The label."""
    description: str | None = None
    """A phrase that takes the place of the name in the hypothesis, or a sentence that is the hypothesis."""
    phrasings: list[str] | None = None
    """Other phrases or sentences for it; scores are averaged over all of them."""
    examples: list[str] | None = None
    """Texts with this label, which scorers embedding and both compare texts with."""
    children: list[Any] | None = None
    """Labels below it, as names or objects; answers hold their paths, `science > space`."""


LabelList = list[str | Annotated[dict[str, Any], WithJsonSchema(LabelObject.model_json_schema())]]
"""Labels as they are sent; `labels_of` checks them, with one sentence for what is wrong."""


class Parameters(BaseModel):
    """Options; `candidate_labels` makes the request a zero-shot one."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    top_k: int | None = Field(default=None, ge=1)
    """Labels to return for each text; default is all of them."""
    function_to_apply: str | None = Field(default=None, json_schema_extra={"enum": list(FUNCTIONS)})
    """The function that turns logits into scores; default is that of the model's task."""
    return_all_scores: bool | None = None
    """An older way to say `top_k`: false returns the best label only, true all of them."""
    truncation: bool | Literal["longest_first", "only_first", "do_not_truncate"] | None = None
    """False refuses texts that are longer than the model reads, or than `max_length`; default is to truncate them."""
    max_length: int | None = Field(default=None, ge=1)
    """Tokens after which a text is truncated, special tokens included; default is as many as the model reads."""
    abstain: bool | None = None
    """Return the labels of the prediction set only, which may be none; refused where the model has no such sets."""
    window: int | str | dict[str, Any] | None = None
    """How long texts are read: tokens of a window, or an object with `tokens`, `overlap`, and `aggregate` (max, mean or
    first); default is what the server or the model says."""
    candidate_labels: LabelList | list[LabelList] | str | None = None
    """Labels of your own, as a list or a comma-separated string; or one list for each text."""
    keep_identifiers: bool | None = None
    """Read labels such as `book_flight` as they are, instead of as words."""
    beam: int | None = Field(default=None, ge=0, le=MAX_BEAM)
    """Labels of each level of a tree (`science > space`) whose labels below are scored; default is 3. 0: no tree."""
    multi_label: bool | None = None
    """Whether several labels may be true at once."""
    hypothesis_template: str | None = None
    """The sentence that a label is inserted into, with exactly one `{}`."""
    scorer: str | None = Field(default=None, json_schema_extra={"enum": list(SCORERS)})
    """The scorer of your labels; default is what the model records."""
    attention: str | None = Field(default=None, json_schema_extra={"enum": list(ATTENTION_MODES)})
    """The attention mode; default is what the model records."""


class Body(BaseModel):
    """A request of the Hugging Face inference API."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    inputs: Any
    """A text, `{"text": ..., "text_pair": ...}`, or a list of these."""
    parameters: Parameters | None = None
    """Options."""
    model: str | None = None
    """Sent by some clients and ignored; the path names the model."""
    options: dict[str, Any] | None = None
    """Sent by some clients for the hosted service (`wait_for_model`, `use_cache`) and ignored."""


class ZeroShotLists(ResponseBody):
    """A zero-shot answer as huggingface_hub below 1.1.5 reads it."""

    sequence: str
    """The text."""
    labels: list[str]
    """Labels, best first."""
    scores: list[float]
    """Their scores."""


Answers = list[list[LabelScore]] | list[LabelScore] | ZeroShotLists | list[ZeroShotLists]
REFUSE_LONG = (False, "do_not_truncate")
ZERO_SHOT_ONLY = ("multi_label", "hypothesis_template", "scorer", "keep_identifiers", "beam")
OPENAPI = request_body(Body)


def build(admission: Admission) -> APIRouter:
    """Return the routes of this dialect."""
    router = APIRouter(tags=["classify"], responses=errors())

    async def answer(name: str | None, request: Request) -> Response:
        body = _parsed(await admission.limits.json(request))
        engine = await admission.engine(request, name)
        parameters, is_list = body.parameters or Parameters(), isinstance(body.inputs, list)
        truncates = parameters.truncation not in (None, *REFUSE_LONG)
        inputs = admission.limits.inputs(body.inputs if is_list else [body.inputs], any_length=truncates)
        if parameters.candidate_labels is None:
            options = _options(engine, inputs, parameters)
            answers = await admission.classify(engine, inputs, request=request, **options)
            _check_truncation(answers, parameters)
            if parameters.abstain:
                return _response([_members(row) for row in answers], answers)
            top_k = 1 if parameters.return_all_scores is False else parameters.top_k
            return _response([_labels(row, top_k) for row in answers], answers)
        questions = _questions(admission.limits, inputs, parameters)
        answers = await admission.zero_shot(engine, [item.text for item in inputs], questions, request=request)
        _check_truncation(answers, parameters)
        agent = request.headers.get("user-agent", "")
        rows = [_zero_shot_shape(row, item.text, agent) for row, item in zip(answers, inputs, strict=True)]
        return _response(rows if is_list else rows[0], answers)

    @router.post("/models/{name}", openapi_extra=OPENAPI, summary="Classify with a model", response_model=Answers)
    async def named(name: str, request: Request) -> Response:
        """Scores of the model's labels (a list for each text), or of `candidate_labels` for an NLI model."""
        return await answer(name, request)

    @router.post("/", openapi_extra=OPENAPI, summary="Classify with the default model", response_model=Answers)
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
    """Return the error message for an unknown key, with the nearest known one."""
    name, inside = str(place[-1]), place[0] == "parameters"
    known = list(Parameters.model_fields if inside else Body.model_fields)
    close = difflib.get_close_matches(name, known, n=1) or [key for key in known if name and key.startswith(name)]
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
            raise BadRequest(f"parameters.{field} goes with parameters.candidate_labels, which is missing")
    if engine.folder.is_zero_shot and any(item.pair is None for item in inputs):
        raise BadRequest(
            f"{engine.folder.path.name} is a zero-shot model: send parameters.candidate_labels, or pairs of text and "
            "text_pair"
        )
    if parameters.return_all_scores is not None and parameters.top_k is not None:
        raise BadRequest("parameters.return_all_scores and parameters.top_k mean the same: send one of them")
    if parameters.abstain:
        require_sets(engine.folder)
        if parameters.top_k is not None or parameters.return_all_scores is not None:
            raise BadRequest("parameters.abstain returns the labels of the prediction set: leave out top_k")
    if parameters.truncation == "only_first" and any(item.pair is not None for item in inputs):
        raise BadRequest("parameters.truncation only_first is not available for pairs: send longest_first, or true")
    return {
        "function": parameters.function_to_apply or "default",
        "attention": parameters.attention,
        "max_length": parameters.max_length,
        "window": checked_window(parameters.window),
    }


def _check_truncation(answers: list[Answer], parameters: Parameters) -> None:
    if parameters.truncation in REFUSE_LONG:
        refuse_truncated(answers, option="truncation: true")


def _questions(
    limits: RequestLimits, inputs: list[TextInput], parameters: Parameters
) -> ZeroShotRequest | list[ZeroShotRequest]:
    for field in ("top_k", "function_to_apply", "return_all_scores", "max_length", "abstain"):
        if getattr(parameters, field) is not None:
            raise BadRequest(f"parameters.{field} does not go with parameters.candidate_labels")
    if any(item.pair is not None for item in inputs):
        raise BadRequest("candidate_labels go with single texts, and there is a text_pair")
    labels: Any = parameters.candidate_labels

    def question(names: Any) -> ZeroShotRequest:
        parsed = limits.described_labels(names)
        return ZeroShotRequest(
            parsed.names,
            bool(parameters.multi_label),
            parameters.hypothesis_template,
            parameters.scorer,  # type: ignore[arg-type]
            parameters.attention,  # type: ignore[arg-type]
            texts=parsed.texts,
            keep_identifiers=bool(parameters.keep_identifiers),
            beam=DEFAULT_BEAM if parameters.beam is None else parameters.beam,
            window=checked_window(parameters.window),
        )

    if isinstance(labels, str) or not labels or not isinstance(labels[0], list):
        return question(labels)
    if len(labels) != len(inputs):
        raise BadRequest(f"candidate_labels holds {len(labels)} lists, and inputs {len(inputs)} texts")
    limits.check_label_count(sum(map(len, labels)))
    return [question(names) for names in labels]


def _labels(answer: Answer, top_k: int | None = None) -> list[dict[str, Any]]:
    return [{"label": row.label, "score": row.score} | answer.remarks for row in answer.predictions[:top_k]]


def _members(answer: Answer) -> list[dict[str, Any]]:
    return [{"label": row.label, "score": row.score} | answer.remarks for row in answer.prediction_set]


def _zero_shot_shape(answer: Answer, text: str, agent: str) -> Any:
    version = re.search(r"hf_hub/(\d+)\.(\d+)\.(\d+)", agent)
    if version is None or tuple(int(part) for part in version.groups()) >= FLAT_SINCE:
        return _labels(answer)
    return {
        "sequence": text,
        "labels": [row.label for row in answer.predictions],
        "scores": [row.score for row in answer.predictions],
    }


def _response(content: Any, answers: list[Answer]) -> Response:
    cut, foreign = sum(answer.truncated for answer in answers), sum(answer.language is not None for answer in answers)
    warnings = []
    if cut:
        warnings += [f"truncation; {cut} of {len(answers)} texts were longer than the model reads and were truncated"]
    if foreign:
        warnings += [f"language; {foreign} of {len(answers)} texts are in a language that the model does not know"]
    return Response(
        json.dumps(content, ensure_ascii=False, allow_nan=False),
        media_type="application/json",
        headers={"X-HF-Warning": ". ".join(warnings)} if warnings else None,
    )
