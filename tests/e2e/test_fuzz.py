"""Whatever is sent, it is answered with a sentence and never with a fault of the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import ServeSettings

PATHS = ("/models/sentiment", "/models/topics", "/", "/predict", "/v1/classify", "/classify", "/v1/systemone")
GOOD = {"inputs": "a film", "input": "a film", "model": "topics", "state": "a film", "parameters": {},
        "questions": {"q": {"type": "choice", "criteria": {"a": None, "b": "c"}}}}  # fmt: skip


@pytest.fixture(scope="module")
def app(tiny_models):
    async def build():
        return create_app(ServeSettings(models=tiny_models, max_texts=4, max_labels=8), log=lambda line: None)

    return asyncio.run(build())


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        app.state.preload.wait()
        client.portal.call(app.page.ready)
        yield client


def odd(rng, depth=0):
    """Something that JSON can hold."""
    plain = [None, True, False, 0, -1, 1e308, 2**70, "", "a", "\ud800", "\x00", "{}", "[SEP]", "é" * 50, "a" * 30_000]
    if depth > 3 or rng.random() < 0.5:
        return rng.choice(plain)
    if rng.random() < 0.5:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(6))]
    keys = ["inputs", "text", "text_pair", "candidate_labels", "type", "criteria", "top_k", "x", "\ud800"]
    return {rng.choice(keys): odd(rng, depth + 1) for _ in range(rng.randrange(5))}


def bodies(rng, count):
    """Good bodies with something odd in them, and bytes that are no JSON."""
    for _ in range(count):
        kind = rng.random()
        if kind < 0.15:
            yield rng.randbytes(rng.randrange(40))
            continue
        body = {key: value for key, value in GOOD.items() if rng.random() < 0.7}
        for _ in range(rng.randrange(3)):
            body[
                rng.choice([*GOOD, "truncate", "raw_scores", "options", "activation", "truncate_prompt_tokens", "x"])
            ] = odd(rng)
        if rng.random() < 0.4:
            names = ["candidate_labels", "top_k", "multi_label", "hypothesis_template", "scorer", "attention", "x"]
            names += ["truncation", "max_length", "return_all_scores"]
            body["parameters"] = {rng.choice(names): odd(rng) for _ in range(rng.randrange(4))}
        content = json.dumps(body).encode()
        yield content if kind < 0.9 else content[: rng.randrange(len(content))]


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_requests_get_a_sentence(client, count):
    rng, seen = random.Random(0), set()
    for number, body in enumerate(bodies(rng, count)):
        path = PATHS[number % len(PATHS)]
        kind = rng.choice(["application/json"] * 9 + ["text/plain"])
        answer = client.post(
            path, content=body, headers={"Content-Type": kind, "User-Agent": rng.choice(["x", "hf_hub/0.2.1"])}
        )
        seen.add(answer.status_code)
        assert answer.status_code < 500, (path, body, answer.text)
        if answer.status_code >= 400:
            found = answer.json()
            assert found.get("error") or found.get("detail"), (path, body, answer.text)
            assert "Traceback" not in answer.text
        else:
            json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))
    assert {200, 400, 415, 422} <= seen


@pytest.mark.parametrize("examples", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_requests_made_of_the_schema_meet_no_fault(app, client, examples):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def try_it(case):
            nonlocal asked
            asked += 1
            sent = {"json": case.body} if isinstance(case.body, dict | list | str | int | float | bool) else {}
            path = case.formatted_path
            answer = client.request(case.method, path, params=case.query, **sent)
            assert answer.status_code < 500, (case.method, path, case.body, answer.text)

        try_it()
    assert asked >= 5 * examples


@pytest.mark.parametrize(
    "raw",
    [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"POST / HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
     b"POST / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n", b"\x00" * 100,
     b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_the_server_goes_on(server, raw):
    port = int(server.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        answer = b""
        # a server that refuses before everything is sent has closed the connection by then
        with contextlib.suppress(OSError):
            caller.sendall(raw)
            caller.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := caller.recv(65536):
                answer += part
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 4") and b"Traceback" not in answer)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
