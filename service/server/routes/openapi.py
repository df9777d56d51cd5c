"""What the routes share in `/openapi.json`: request bodies without references, and the shape of errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ResponseBody(BaseModel):
    """Base of every documented response: a field that is not documented is a mistake."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class ErrorBody(ResponseBody):
    """An error."""

    error: str
    """What is wrong, and what to do."""
    request_id: str
    """The id of the request, as in the header X-Request-Id and in the log."""


class LabelScore(ResponseBody):
    """A label and its score."""

    label: str
    """The label."""
    score: float
    """A probability; the logit where logits were requested, the value itself for a regression."""
    truncated: bool = False
    """True where the text was longer than the model reads; left out otherwise."""
    language: str | None = None
    """Code of the text's language where the model was not trained for it; left out otherwise."""
    window: dict[str, int] | None = None
    """`start` and `end` of the characters of the window that decided; left out where texts are read whole."""


def errors(model: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """Return the documented error responses of a router."""
    return {
        "4XX": {"model": model, "description": "The request cannot be answered; it says why."},
        "5XX": {"model": model, "description": "The server or the model failed, or shuts down."},
    }


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI request body of a model, for routes that read their body themselves."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with definitions in place of references, which would lead nowhere inside an OpenAPI document."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    # a discriminator maps values to references
    return {key: _inlined(part, definitions) for key, part in schema.items() if key != "discriminator"}
