"""What clients see of Ray's proxy: its own answers in this server's shape, bounded bodies, no directions of theirs."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.testclient import TestClient

from service.server.ray_proxy import RayProxyMiddleware

pytestmark = pytest.mark.fast

REQUEST = {"headers": {"X-Request-Id": "mine-1"}, "json": {"inputs": "a"}}


def client(answer):
    """Return a client of a proxy that answers so; as Ray does, the proxy appends the request id."""

    async def ray(scope, receive, send):
        async def appended(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", dict(scope["headers"]).get(b"x-request-id", b"made")))
            await send(message)

        if answer is not None:
            await answer(scope, receive, appended)

    return TestClient(RayProxyMiddleware(ray, 1000), base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("answer", "status", "retry_after", "sentence"),
    [
        (None, 503, "5", "the replica that ran this request ended: send the request again in a moment"),
        (PlainTextResponse("died", 500), 503, "5", "the replica that ran this request ended"),
        (PlainTextResponse("Path '/' not found.", 404), 503, "5", "no replica is running"),
        (PlainTextResponse("unavailable", 503), 503, "5", "no replica is running"),
        (PlainTextResponse("timed out", 408), 504, None, "no replica answered the request in time"),
        (PlainTextResponse("dropped", 429, {"Retry-After": "1"}), 429, "1", "every replica is at capacity"),
    ],
)
def test_errors_of_ray_take_the_shape_of_the_dialect(answer, status, retry_after, sentence):
    shapes = {"/models/a": {"error", "request_id"}, "/predict": {"error", "error_type", "request_id"}}
    for path, shape in shapes.items():
        found = client(answer).post(path, **REQUEST)
        assert (found.status_code, found.headers.get("Retry-After")) == (status, retry_after)
        assert set(found.json()) == shape and sentence in found.json()["error"]
        if answer is not None:
            assert found.headers["X-Request-Id"] == found.json()["request_id"] == "mine-1"


@pytest.mark.parametrize(
    "answer", [JSONResponse({"error": "ours"}, 404), PlainTextResponse("metrics"), JSONResponse({"status": "x"}, 503)]
)
def test_answers_of_replicas_pass_as_they_are(answer):
    found = client(answer).post("/models/a", **REQUEST)
    assert (found.status_code, found.content) == (answer.status_code, answer.body)


def test_paths_of_ray_itself_pass_as_they_are():
    assert client(PlainTextResponse("not ready", 503)).get("/-/healthz").text == "not ready"


def test_a_request_id_is_sent_once_and_an_odd_one_is_not_passed_on():
    replica = JSONResponse({}, headers={"X-Request-Id": "of-the-replica"})
    sent = client(replica).post("/models/a", headers={"X-Request-Id": "a b"}).headers
    assert sent.get_list("x-request-id") == ["of-the-replica"]
    assert client(Response()).get("/health", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"] == "made"


def test_headers_that_ray_would_obey_are_dropped():
    async def echo(scope, receive, send):
        await JSONResponse(sorted(name.decode() for name, _ in scope["headers"]))(scope, receive, send)

    directions = ("x-request-timeout-seconds", "X-Request-Disconnect-Disabled", "serve_multiplexed_model_id")
    found = client(echo).get("/", headers=dict.fromkeys((*directions, "X-Session-Id", "X-API-Key"), "1")).json()
    assert "x-api-key" in found and not {"x-session-id", *map(str.lower, directions)} & set(found)


def test_no_more_of_a_body_is_read_than_the_limit_and_a_part():
    taken = []

    async def read_all(scope, receive, send):
        async def read():
            while (message := await receive()).get("more_body"):
                taken.append(len(message["body"]))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(), 0.5)
        await Response(status_code=413)(scope, receive, send)

    async def receive():
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    async def send(message):
        pass

    scope = {"type": "http", "path": "/", "method": "POST", "headers": []}
    asyncio.run(RayProxyMiddleware(read_all, 1000)(scope, receive, send))
    assert taken == [400, 400, 400]
