"""Hosts and origins, request ids, what is logged and counted, and what never is."""

from __future__ import annotations

import json
import re

import pytest

from service.server.telemetry import Telemetry

KEY = "a-long-enough-key-1"
ASK = {"inputs": "I loved it."}
CANARY = "canary-7f3a"


def metric(client, name, **headers):
    """Sums of a metric by its labels."""
    page = client.get("/metrics", headers=headers).text
    found = re.findall(rf"^rehead_{name}(?:{{(.*?)}})? ([0-9.e+-]+)$", page, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "10.0.0.1"])
def test_another_name_than_the_servers_is_refused_without_a_key(served, host):
    client = served()
    for answer in (client.get("/", headers={"Host": host}), client.post("/", json=ASK, headers={"Host": host})):
        assert answer.status_code == 403 and "is not allowed" in answer.json()["error"]
    assert client.get("/", headers={"Host": "localhost:7860"}).status_code == 200
    named = served(allowed_hosts=(host.partition(":")[0],))
    assert named.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://localhost.evil.example"]
)
def test_pages_from_elsewhere_may_not_ask(served, origin):
    client = served()
    for path in ("/models/sentiment", "/gradio_api/queue/join", "/login"):
        answer = client.post(path, json=ASK, headers={"Origin": origin})
        assert answer.status_code == 403 and "is not allowed" in answer.json()["error"]
    assert client.post("/models/sentiment", json=ASK, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_cors_is_off_until_origins_are_listed(served):
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert served().options("/models/sentiment", headers=asked).status_code == 403
    client = served(cors_origins=("https://app.example",))
    told = client.options("/models/sentiment", headers=asked | {"Access-Control-Request-Headers": "content-type"})
    assert told.status_code == 200 and told.headers["access-control-allow-origin"] == "https://app.example"
    assert client.post("/models/sentiment", json=ASK, headers={"Origin": "https://app.example"}).status_code == 200
    assert client.post("/models/sentiment", json=ASK, headers={"Origin": "https://other.example"}).status_code == 403


def test_the_scripts_of_an_allowed_page_can_read_a_refusal(served):
    client = served(cors_origins=("https://app.example",), requests_per_minute=1)
    found = [client.post("/models/sentiment", json=ASK, headers={"Origin": "https://app.example"}) for _ in range(2)]
    assert [one.status_code for one in found] == [200, 429]
    assert [one.headers["access-control-allow-origin"] for one in found] == ["https://app.example"] * 2
    other = client.post("/models/sentiment", json=ASK, headers={"Origin": "https://other.example"})
    assert other.status_code == 403 and "access-control-allow-origin" not in other.headers


def test_errors_carry_the_request_id_in_their_dialects_shape(served):
    client = served(keys=f"team={KEY}")
    plain, kinds = {"error", "request_id"}, {"error", "error_type", "request_id"}
    shapes = {"/models/sentiment": plain, "/predict": kinds, "/v1/classify": plain, "/v1/systemone": {"detail"}}
    for path, shape in shapes.items():
        for headers in ({}, {"X-API-Key": KEY}):
            answer = client.post(path, json={"odd": 1}, headers=headers | {"X-Request-Id": "mine-1"})
            assert answer.status_code in (400, 401, 422) and set(answer.json()) == shape, (path, answer.text)
            assert answer.headers["X-Request-Id"] == "mine-1" and answer.json().get("request_id", "mine-1") == "mine-1"


def test_an_exception_after_a_response_began_is_logged_with_its_cause():
    lines = []
    error = RuntimeError("Caught handled exception, but response already started.")
    error.__cause__ = ZeroDivisionError(CANARY)
    Telemetry(lines.append).crash("mine-1", error)
    assert json.loads(lines[0]) | {"at": 0, "cause_at": 0} == {
        "request_id": "mine-1",
        "crash": "RuntimeError",
        "at": 0,
        "cause": "ZeroDivisionError",
        "cause_at": 0,
    }
    assert CANARY not in lines[0]


def test_texts_labels_and_tokens_are_in_no_log_line_and_no_metric(served, monkeypatch, capsys):
    client = served()
    ours = {"inputs": f"{CANARY} text", "parameters": {"candidate_labels": [f"{CANARY} label", "b"],
            "hypothesis_template": f"{CANARY} {{}}"}}  # fmt: skip
    bodies = {
        "/models/sentiment": {"inputs": CANARY}, "/models/topics": ours,
        "/": {"inputs": CANARY}, "/predict": {"inputs": CANARY},
        "/v1/classify": {"input": CANARY}, "/classify": {"input": CANARY},
        "/v1/systemone": {"model": "topics", "state": CANARY,
                          "questions": {CANARY: {"type": "choice", "criteria": {CANARY: None, "b": None}}}},
    }  # fmt: skip
    for path, body in bodies.items():
        assert client.post(path, json=body, headers={"Authorization": f"Bearer {CANARY}"}).status_code == 200, path
        client.post(path, json={CANARY: CANARY})
        client.post(path, content=CANARY.encode(), headers={"Content-Type": "application/json"})
        client.post(f"{path}?{CANARY}", json=body)
    client.post(f"/models/{CANARY}", json=ASK)

    async def crash(self, inputs, **options):
        raise ZeroDivisionError(inputs[0].text)

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", crash)
    assert client.post("/models/sentiment", json={"inputs": CANARY}).status_code == 500
    assert any('"crash": "ZeroDivisionError"' in line and "test_middleware.py" in line for line in client.lines)
    captured = capsys.readouterr()
    seen = "".join(client.lines) + client.get("/metrics").text + captured.out + captured.err
    assert len(client.lines) >= 25 and CANARY not in seen
    assert all(json.loads(line) for line in client.lines)


@pytest.mark.parametrize("requests", [60, pytest.param(20_000, marks=pytest.mark.slow)])
def test_counts_are_what_the_client_counted(served, requests):
    client = served(max_texts=2)
    statuses = [
        client.post("/models/sentiment", json={"inputs": ["good film"] * (1 + number % 3)}).status_code
        for number in range(requests)
    ]
    statuses += [client.post("/models/nope", json=ASK).status_code for _ in range(5)]
    counted = metric(client, "requests_total")
    named = 'route="/models/{name}"'
    good, refused = statuses.count(200), statuses.count(413)
    assert (good, refused) == (requests - requests // 3, requests // 3) and statuses.count(404) == 5
    assert counted[f'code="200",model="sentiment",{named}'] == good
    assert counted[f'code="413",model="sentiment",{named}'] == refused
    assert counted[f'code="404",model="-",{named}'] == 5
    assert metric(client, "refused_total") == {'reason="too_large"': refused, 'reason="model_not_found"': 5}
    texts = sum(1 + number % 3 for number in range(requests) if number % 3 < 2)
    assert sum(metric(client, "labels_total").values()) == texts
    assert metric(client, "top_score_count") == {'model="sentiment"': texts}
    rows = metric(client, "batch_rows_sum")['model="sentiment"']
    assert rows == metric(client, "batch_rows_count")['model="sentiment"'] == good  # equal texts are computed once
    assert metric(client, "waiting_tokens")['model="sentiment"'] == 0
    assert metric(client, "model_restarts_total")['model="sentiment"'] == 0
    seconds = metric(client, "seconds_count")
    assert seconds['stage="inference"'] == seconds['stage="queue"'] == seconds['stage="tokenizing"'] == good
