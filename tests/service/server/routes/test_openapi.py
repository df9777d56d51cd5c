"""`/openapi.json` describes what every route really answers, so that a client can be generated from it."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest

from service.settings import ServeSettings
from tests.support.app_client import opened

pytestmark = pytest.mark.fast

CUT = "good " * 500
LABELS = {"candidate_labels": ["sports", "business"]}
OLD = {"User-Agent": "hf_hub/0.20.0"}
JSON = {"Content-Type": "application/json"}
QUESTIONS = {
    "tone": {"type": "choice", "criteria": {"calm": None, "angry": "Shouts"}},
    "urgency": {"type": "score", "criteria": ["Can wait", {"by": "today"}]},
    "refund": {"type": "noul", "instructions": "Is a refund wanted?"},
}
TYPED = {"model": "topics", "state": {"text": "the match"}, "questions": QUESTIONS}
PAIR = {"text": "a", "text_pair": "b"}

REQUESTS = [
    ("get", "/health", "/health", None, {}, 200),
    ("get", "/health/ready", "/health/ready", None, {}, 200),
    ("get", "/health/live", "/health/live", None, {}, 200),
    ("get", "/models", "/models", None, {}, 200),
    ("get", "/models/{name}/health", "/models/topics/health", None, {}, 200),
    ("get", "/models/{name}/health", "/models/nope/health", None, {}, 404),
    ("get", "/models/{name}/info", "/models/sentiment/info", None, {}, 200),
    ("get", "/models/{name}/info", "/models/topics/info", None, {}, 200),
    ("get", "/models/{name}/info", "/models/nope/info", None, {}, 404),
    ("get", "/info", "/info", None, {}, 200),
    ("get", "/metrics", "/metrics", None, {}, 200),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": "a"}, {}, 200),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": [CUT, PAIR]}, {}, 200),
    ("post", "/models/{name}", "/models/topics", {"inputs": "a", "parameters": LABELS}, {}, 200),
    ("post", "/models/{name}", "/models/topics", {"inputs": [CUT, "a"], "parameters": LABELS}, {}, 200),
    ("post", "/models/{name}", "/models/topics", {"inputs": "a", "parameters": LABELS}, OLD, 200),
    ("post", "/models/{name}", "/models/topics", {"inputs": ["a", "b"], "parameters": LABELS}, OLD, 200),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": []}, {}, 400),
    ("post", "/models/{name}", "/models/nope", {"inputs": "a"}, {}, 404),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": ["a"] * 99}, {}, 413),
    ("post", "/", "/", {"inputs": "a"}, {}, 200),
    ("post", "/", "/", {"odd": 1}, {}, 400),
    ("post", "/predict", "/predict", {"inputs": CUT}, {}, 200),
    ("post", "/predict", "/predict", {"inputs": [["a"], ["a", "b"]]}, {}, 200),
    ("post", "/predict", "/predict", {"inputs": []}, {}, 400),
    ("post", "/predict", "/predict", {"inputs": 7}, {}, 422),
    ("post", "/v1/classify", "/v1/classify", {"input": ["a", CUT]}, {}, 200),
    ("post", "/v1/classify", "/v1/classify", {"input": 5}, {}, 400),
    ("post", "/classify", "/classify", {"input": "a", "use_activation": False}, {}, 200),
    ("get", "/v1/models", "/v1/models", None, {}, 200),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": CUT, "parameters": {"max_length": 9}}, {}, 200),
    ("post", "/models/{name}", "/models/sentiment", {"inputs": CUT, "parameters": {"truncation": False}}, {}, 400),
    ("post", "/v1/systemone", "/v1/systemone", TYPED, {}, 200),
    ("post", "/v1/systemone", "/v1/systemone", {"odd": 1}, {}, 422),
    ("post", "/v1/systemone", "/v1/systemone", TYPED | {"model": "nope"}, {}, 404),
]


@pytest.fixture(scope="module")
def client(tiny_models):
    with opened(ServeSettings(models=tiny_models), log=lambda line: None) as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def check(document, method, path, answer):
    """Validate an answer against the response that the document has for its status."""
    responses = document["paths"][path][method]["responses"]
    status = str(answer.status_code)
    described = responses.get(status) or responses[f"{status[0]}XX"]
    (media_type,) = described["content"]
    assert answer.headers["content-type"].partition(";")[0] == media_type
    schema = described["content"][media_type]["schema"]
    assert schema, f"{method} {path} has an empty schema for {status}"
    content = answer.json() if media_type == "application/json" else answer.text
    jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]}).validate(content)


@pytest.mark.parametrize(("method", "path", "address", "body", "headers", "status"), REQUESTS)
def test_a_real_answer_matches_the_schema_of_its_route(client, document, method, path, address, body, headers, status):
    answer = client.request(method.upper(), address, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    check(document, method, path, answer)
    if body is not None and status == 200:
        content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        jsonschema_rs.Draft202012Validator(content["schema"]).validate(body)


def test_every_route_is_among_those_requests(document):
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(method, path) for method, path, *_ in REQUESTS}


def test_an_undocumented_field_does_not_match(client, document):
    answer = client.get("/models/sentiment/info")
    answer._content = json.dumps(answer.json() | {"more": 1}).encode()
    with pytest.raises(jsonschema_rs.ValidationError, match="more"):
        check(document, "get", "/models/{name}/info", answer)


def test_every_reference_of_the_document_leads_somewhere(document):
    references, stack = set(), [document]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            references |= {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    schemas = document["components"]["schemas"]
    assert references and {name.removeprefix("#/components/schemas/") for name in references} <= set(schemas)


def test_refusals_match_the_schema_of_their_route(client, document):
    posts = [entry for entry in REQUESTS if entry[0] == "post" and entry[-1] == 200]
    for method, path, address, *_ in posts:
        answer = client.post(address, content=b"a text", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415
        check(document, method, path, answer)
    client.app.state.admission.draining = True
    try:
        for method, path, address, body, headers, _ in posts:
            answer = client.post(address, json=body, headers=headers)
            assert answer.status_code == 503
            check(document, method, path, answer)
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        check(document, "get", "/health/ready", answer)
    finally:
        client.app.state.admission.draining = False
