"""Requests counted in and out: by model, by key and minute, at shutdown; work in the background."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from service.errors import BodyTooLarge, Overloaded, RateLimited
from service.inference.engine import Engine
from service.inference.model_store import ModelStore
from service.schema import Answer, TextInput
from service.server.admission import Admission
from service.server.bodies import Bodies
from service.server.explain import explain
from service.server.telemetry import Telemetry
from service.settings import RuntimeSettings, ServeSettings
from tests.support.waiting import DEADLINE_S, until

KEY, OTHER = "a-long-enough-key-1", "a-long-enough-key-2"
ASK = {"inputs": "I loved it."}


def running(client, name="sentiment"):
    """How many requests of a model are counted in."""
    return client.app.state.admission.loads[client.app.state.store.get(name)].running


@pytest.fixture
def admission(tiny_models):
    runtime = RuntimeSettings(backend="torch", precision="float32")
    store = ModelStore(tiny_models, lambda folder: Engine.load(folder, runtime))
    settings = ServeSettings(models=tiny_models, queue_seconds=1000.0, request_seconds=1000.0)
    admission = Admission(store, settings, Telemetry(lambda line: None))
    yield admission
    admission.close()


def test_the_requests_of_a_minute_by_key(served):
    client = served(keys=f"team={KEY},other={OTHER}", requests_per_minute=3)

    def status(key):
        return client.post("/models/sentiment", json=ASK, headers={"X-API-Key": key})

    found = [status(KEY) for _ in range(4)]
    assert [one.status_code for one in found] == [200, 200, 200, 429]
    assert (
        found[0].headers["RateLimit-Policy"] == '"requests";q=3;w=60'
        and '"requests";r=2' in found[0].headers["RateLimit"]
    )
    assert 1 <= int(found[3].headers["Retry-After"]) <= 60 and found[3].headers["RateLimit"].startswith(
        '"requests";r=0;t='
    )
    assert status(OTHER).status_code == 200 and client.get("/health").status_code == 200
    from huggingface_hub.utils._http import parse_ratelimit_headers

    told = parse_ratelimit_headers(found[3].headers)
    assert (told.remaining, told.limit, told.window_seconds) == (0, 3, 60)


def test_a_body_that_never_comes_takes_no_place(served, monkeypatch):
    monkeypatch.setattr("service.server.bodies.BODY_TIMEOUT_S", 0.01)
    client = served(max_concurrent=2)
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/models/sentiment", "headers": headers, "query_string": b""}
    sent, counted = [], []

    async def never():
        counted.append(running(client))
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    client.portal.call(client.app, scope, never, send)
    assert sent[0]["status"] == 504 and counted == [0] and running(client) == 0
    assert client.post("/models/sentiment", json=ASK).status_code == 200


def test_a_clock_that_is_set_back_locks_nobody_out(admission, monkeypatch):
    strict = Admission(admission.store, ServeSettings(requests_per_minute=1), admission.telemetry)
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    strict.count_minute("team")
    with pytest.raises(RateLimited):
        strict.count_minute("team")
    now[0] -= 86_400
    strict.count_minute("team")
    with pytest.raises(RateLimited):
        strict.count_minute("team")
    now[0] += 86_400
    strict.count_minute("team")
    strict.close()


@pytest.mark.parametrize("path", ["/login", "/gradio_api/queue/join", "/gradio_api/cancel", "/predict", "/v1/classify"])
def test_no_route_waits_for_a_body_for_ever(served, monkeypatch, path):
    monkeypatch.setattr("service.server.bodies.BODY_TIMEOUT_S", 0.01)
    client = served()
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    sent, parts = [], [{"type": "http.request", "body": b"{", "more_body": True}]

    async def stops():
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    client.portal.call(client.app, scope, stops, send)
    assert sent[0]["status"] == 504 and b"did not arrive within" in sent[1]["body"]
    assert client.app.state.admission.limits.bodies.arriving.used == 0


def test_one_client_leaves_places_to_others(served, monkeypatch):
    begun, held = threading.Semaphore(0), threading.Event()

    async def slow(self, inputs, **options):
        begun.release()
        await asyncio.to_thread(held.wait, DEADLINE_S)
        return [Answer(("negative", "positive"), (0.5, 0.5), False)]

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", slow)
    client = served(keys=f"team={KEY},other={OTHER}", max_concurrent=8)

    def ask(key):
        return client.post("/models/sentiment", json=ASK, headers={"X-API-Key": key})

    with ThreadPoolExecutor(8) as pool:
        answers = []
        for _ in range(6):
            answers.append(pool.submit(ask, KEY))
            assert begun.acquire(timeout=DEADLINE_S)
        refused = ask(KEY)
        assert refused.status_code == 429 and "has its share" in refused.json()["error"]
        answers.append(pool.submit(ask, OTHER))
        assert begun.acquire(timeout=DEADLINE_S)
        held.set()
        assert [answer.result().status_code for answer in answers] == [200] * 7
    assert (
        running(client) == 0 and not client.app.state.admission.loads[client.app.state.store.get("sentiment")].by_client
    )


def test_bodies_that_are_arriving_have_a_bound_in_all_and_for_each_client():
    bodies, scope = Bodies(1000), {"headers": []}
    bodies.arriving.total = 100

    async def unfinished(size):
        yield {"type": "http.request", "body": b"a" * size, "more_body": True}
        await asyncio.Event().wait()

    def read(client, size):
        parts = unfinished(size)
        return asyncio.ensure_future(bodies.read(scope, parts.__anext__, client))

    async def all_of_them():
        waiting = [read("one", 40), read("one", 35)]
        with pytest.raises(Overloaded, match="too many request bodies"):
            await read("one", 10)
        waiting.append(read("another", 10))
        with pytest.raises(BodyTooLarge):
            await read("another", 1001)
        assert bodies.arriving.used == 85
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(all_of_them())
    assert bodies.arriving.used == 0


def test_a_refused_request_does_not_make_others_wait(served):
    client = served(max_tokens=30)
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    load = client.app.state.admission.loads[client.app.state.store.get("sentiment")]
    before = load.tokens_per_request
    long = [f"good film {n} " * 20 for n in range(20)]
    assert client.post("/models/sentiment", json={"inputs": long}).status_code == 413
    assert load.tokens_per_request <= before + 1 and load.running == 0


def test_a_call_is_counted_at_the_model_it_asks(served):
    client = served()
    questions = {"q": {"type": "choice", "criteria": {"a": None, "b": None}}}
    for path, body in {
        "/v1/classify": {"model": "sentiment", "input": "a"},
        "/v1/systemone": {"model": "topics", "state": "a", "questions": questions},
        "/predict": {"inputs": "a"},
        "/": {"inputs": []},
    }.items():
        client.post(path, json=body)
        assert [running(client, name) for name in ("sentiment", "topics")] == [0, 0], path
    load = client.app.state.admission.loads[client.app.state.store.get("topics")]
    load.running = 10_000
    assert (
        client.post("/v1/systemone", json={"model": "topics", "state": "a", "questions": questions}).status_code == 429
    )
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    load.running = 0


def test_the_calls_of_a_model_under_way(served, monkeypatch):
    begun, go_on = threading.Semaphore(0), threading.Event()

    async def slow(self, inputs, **options):
        begun.release()
        await asyncio.to_thread(go_on.wait, DEADLINE_S)
        return [Answer(("negative", "positive"), (0.5, 0.5), False)]

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", slow)
    client = served(max_concurrent=3)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(client.post, "/models/sentiment", json=ASK)
            assert begun.acquire(timeout=DEADLINE_S)
        refused = client.post("/models/sentiment", json=ASK)
        assert refused.status_code == 429 and "with 3 requests running" in refused.json()["error"]
        assert refused.headers["Retry-After"] == "1" and refused.headers["X-Request-Id"]
        assert client.post("/predict", json=ASK).json()["error_type"] == "Overloaded"
        go_on.set()
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    assert running(client) == 0


def test_the_seconds_of_a_request(served, monkeypatch):
    cancelled = []

    async def never(self, inputs, **options):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(len(inputs))

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", never)
    client = served(request_seconds=0.2)
    answer = client.post("/models/sentiment", json=ASK)
    assert answer.status_code == 504 and "time limit of 0.2 s" in answer.json()["error"]
    assert client.post("/predict", json=ASK).json()["error_type"] == "Backend"
    assert cancelled == [1, 1] and running(client) == 0


def test_the_seconds_in_the_queue(served, monkeypatch):
    client = served(queue_seconds=0.3)
    client.post("/models/sentiment", json=ASK)  # the queue knows now how fast the model is
    engine = client.app.state.store.get("sentiment")
    run, begun, held, now = engine.backend.run, [], threading.Event(), [0.0]
    monkeypatch.setattr(
        "service.inference.batch_queue.time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    )

    def hold(*args, **kwargs):
        begun.append(1)
        held.wait(DEADLINE_S)
        return run(*args, **kwargs)

    monkeypatch.setattr(engine.backend, "run", hold)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/models/sentiment", json={"inputs": "first"})
        until(lambda: begun, "the first request runs")
        second = pool.submit(client.post, "/models/sentiment", json={"inputs": "second"})
        until(lambda: engine.queued_tokens, "the second request waits")
        now[0] += 0.8
        held.set()
        assert first.result().status_code == 200
        answer = second.result()
    assert answer.status_code == 429 and "timed out while waiting in the queue" in answer.json()["error"]
    assert int(answer.headers["Retry-After"]) >= 1 and len(begun) == 1


def test_while_the_server_stops_it_refuses_and_says_so(served):
    client = served()
    client.app.state.admission.draining = True
    answer = client.post("/models/sentiment", json=ASK)
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "shutting down" in answer.json()["error"]
    assert client.post("/predict", json=ASK).json()["error_type"] == "Unhealthy"
    assert client.get("/health/live").status_code == 200 and client.get("/health/ready").status_code == 503


def test_tables_that_are_scored_at_once_are_few_and_counted_out(admission):
    busy = pytest.raises(Overloaded, match="other tables are being scored")
    with admission.table(), admission.table(), busy, admission.table():
        pass
    with admission.table():
        pass


def test_explanations_leave_threads_to_answers(admission, monkeypatch):
    engine = admission.store.get("sentiment")
    real = engine.aclassify

    async def all_at_once():
        begun, held = [], asyncio.Event()

        async def hold(inputs, **options):
            begun.append(len(inputs))
            await held.wait()
            return await real(inputs, **options)

        monkeypatch.setattr(engine, "aclassify", hold)
        item = TextInput("a warm and funny film that I would see again " * 60)
        tasks = [asyncio.ensure_future(explain(admission, engine, item, "positive")) for _ in range(16)]
        while not begun:
            await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), DEADLINE_S) == "free"
        assert admission.loads[engine].running == 16 and not any(task.done() for task in tasks)
        held.set()
        return await asyncio.gather(*tasks)

    found = asyncio.run(all_at_once())
    assert len(found) == 16 and all(len(words) == 128 for words in found)
    assert admission.loads[engine].running == 0


def test_a_cancelled_explanation_runs_the_model_no_more(admission, monkeypatch):
    engine = admission.store.get("sentiment")
    real, calls = engine.aclassify, []

    async def cancelled():
        begun, held = asyncio.Event(), asyncio.Event()

        async def hold(inputs, **options):
            calls.append(len(inputs))
            begun.set()
            await held.wait()
            return await real(inputs, **options)

        monkeypatch.setattr(engine, "aclassify", hold)
        task = asyncio.ensure_future(explain(admission, engine, TextInput("film " * 128), "positive"))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        held.set()
        await asyncio.to_thread(admission.close)  # waits for the thread of the explanation

    asyncio.run(cancelled())
    assert len(calls) == 1 and admission.loads[engine].running == 0
