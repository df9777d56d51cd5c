"""Who may ask, from where, how much and how often; what is counted and written down, and what never is."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import BadRequest
from service.schema import Answer
from service.server.guard import ApiKeys, check_exposure
from service.settings import ServeSettings

KEY, OTHER = "a-long-enough-key-1", "a-long-enough-key-2"
ASK = {"inputs": "I loved it."}
JSON = {"Content-Type": "application/json"}
CANARY = "canary-7f3a"


@pytest.fixture
def served(tiny_models, monkeypatch):
    """Clients of servers with the settings given; their log lines in `lines`."""
    opened = []

    def start(base_url="http://127.0.0.1", keys="", **settings):
        monkeypatch.setenv("REHEAD_API_KEYS", keys)
        lines = []

        async def build():
            return create_app(ServeSettings(models=tiny_models, **settings), log=lines.append)

        client = TestClient(asyncio.run(build()), base_url=base_url, raise_server_exceptions=False)
        client.__enter__()
        client.lines = lines
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def metric(client, name, **headers):
    """Sums of a metric by its labels."""
    page = client.get("/metrics", headers=headers).text
    found = re.findall(rf"^rehead_{name}(?:{{(.*?)}})? ([0-9.e+-]+)$", page, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_other_addresses_want_a_key_or_the_word(tmp_path, monkeypatch):
    monkeypatch.delenv("REHEAD_API_KEYS", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        settings = ServeSettings(host=host)
        with pytest.raises(BadRequest, match="give a key with --api-key-file FILE or REHEAD_API_KEYS, or say"):
            check_exposure(settings, ApiKeys.read(settings))
        check_exposure(ServeSettings(host=host, no_auth=True), ApiKeys({}))
        check_exposure(settings, ApiKeys({"a": KEY}))
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        check_exposure(ServeSettings(host=host), ApiKeys({}))


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nteam = {KEY}\n{OTHER}==\n", encoding="utf-8")
    monkeypatch.setenv("REHEAD_API_KEYS", f"ci={KEY}-ci,{OTHER}-plain")
    keys = ApiKeys.read(ServeSettings(api_key_file=file))
    names = [keys.name_of(key) for key in (KEY, f"{OTHER}==", f"{KEY}-ci", f"{OTHER}-plain", KEY[:-1], "")]
    assert names == ["team", "key2", "ci", "key4", None, None]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("short", "needs 16 characters"), ("", "holds no key"), (f"a={KEY}\na={OTHER}", "line 2: the name 'a' is taken")],
)
def test_keys_that_cannot_be_used_are_a_sentence(tmp_path, monkeypatch, content, sentence):
    monkeypatch.delenv("REHEAD_API_KEYS", raising=False)
    (tmp_path / "keys").write_text(content)
    with pytest.raises(BadRequest, match=sentence) as told:
        ApiKeys.read(ServeSettings(api_key_file=tmp_path / "keys"))
    assert KEY not in str(told.value) and "short" not in str(told.value)
    with pytest.raises(BadRequest, match="cannot be read"):
        ApiKeys.read(ServeSettings(api_key_file=tmp_path / "none"))


def test_one_key_opens_api_page_and_metrics(served):
    client = served(keys=f"team={KEY},other={OTHER}")
    for given in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": OTHER}):
        assert client.post("/models/sentiment", json=ASK, headers=given).status_code == 200
        assert client.get("/metrics", headers=given).status_code == 200
        assert client.get("/config", headers=given).status_code == 200  # the page's own
    for given in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}, {"X-API-Key": ""}):
        for path in ("/metrics", "/config", "/models", "/docs", "/openapi.json", "/gradio_api/info"):
            answer = client.get(path, headers=given)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", path
        assert client.post("/models/sentiment", json=ASK, headers=given).status_code == 401
    assert [client.get(path).status_code for path in ("/health", "/health/live", "/health/ready")] == [200] * 3


def test_a_person_logs_in_with_the_key(served):
    client = served(keys=f"team={KEY}")
    page = client.get("/", headers={"Accept": "text/html"})
    assert page.url.path == "/login" and 'type="password"' in page.text
    assert client.post("/login", data={"key": OTHER}).status_code == 401
    assert client.get("/metrics").status_code == 401
    opened = client.post("/login", data={"key": KEY}, follow_redirects=False)
    assert opened.status_code == 303
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and KEY not in cookie
    assert "text/html" in client.get("/").headers["content-type"] and client.get("/metrics").status_code == 200
    name, _, signature = client.cookies["rehead_session"].strip('"').rpartition(":")
    for forged in (f"{name}:{signature[::-1]}", f"other:{signature}", "x", ":"):
        client.cookies.clear()
        assert client.get("/metrics", headers={"Cookie": f"rehead_session={forged}"}).status_code == 401


def test_the_key_is_in_no_answer_and_no_log(served):
    client = served(keys=f"team={KEY}")
    texts = [client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text]
    texts += [client.get("/nothing", headers={"X-API-Key": KEY}).text]
    assert KEY not in "".join(texts + client.lines) and '"key": "team"' in "".join(client.lines)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "10.0.0.1"])
def test_another_name_than_the_servers_is_refused_without_a_key(served, host):
    client = served()
    for answer in (client.get("/", headers={"Host": host}), client.post("/", json=ASK, headers={"Host": host})):
        assert answer.status_code == 403 and "is not asked as" in answer.json()["error"]
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
        assert answer.status_code == 403 and "may not ask this server" in answer.json()["error"]
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


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_json_routes_insist_on_json(served, kind):
    client = served()
    headers = {"Content-Type": kind} if kind else {}
    for path in ("/models/sentiment", "/", "/predict", "/v1/classify", "/v1/systemone"):
        answer = client.post(path, content=json.dumps(ASK).encode(), headers=headers)
        assert answer.status_code == 415, path


# limits: one below, the limit, one above


def asked(client, **body):
    return client.post("/models/sentiment", json=body).status_code


def test_the_bytes_of_a_body(served):
    client = served(max_body_bytes=2000)
    for size, status in ((1999, 200), (2000, 200), (2001, 413)):
        content = json.dumps(ASK).encode().ljust(size)
        found = [client.post(path, content=content, headers={"Content-Type": "application/json"})
                 for path in ("/models/sentiment", "/predict")]  # fmt: skip
        assert [one.status_code for one in found] == [status] * 2


def test_the_texts_of_a_request(served):
    client = served(max_texts=3)
    assert [asked(client, inputs=["a"] * count) for count in (2, 3, 4)] == [200, 200, 413]
    assert [client.post("/predict", json={"inputs": [["a"]] * n}).status_code for n in (2, 3, 4)] == [200, 200, 422]


def test_the_characters_of_a_text_before_it_is_tokenized(served, monkeypatch):
    client = served(max_characters=50)
    assert [asked(client, inputs="a" * count) for count in (49, 50, 51)] == [200, 200, 413]
    assert asked(client, inputs={"text": "a", "text_pair": "b" * 51}) == 413
    monkeypatch.setattr("finetune.core.tokenization.TextEncoder.__call__", None)
    assert asked(client, inputs="a" * 51) == 413


def test_the_labels_of_a_request(served):
    client = served(max_labels=3)

    def status(count):
        parameters = {"candidate_labels": [f"label {n}" for n in range(count)]}
        return client.post("/models/topics", json={"inputs": "a", "parameters": parameters}).status_code

    assert [status(count) for count in (2, 3, 4)] == [200, 200, 413]


def test_the_tokens_of_a_request_as_the_engine_counts_them(served):
    text = "a film a film"  # [CLS] a film a film [SEP]
    statuses = [asked(served(max_tokens=limit), inputs=[text, f"{text} a"]) for limit in (14, 13, 12)]
    assert statuses == [200, 200, 413]
    body = {"inputs": "a film", "parameters": {"candidate_labels": ["a", "b"], "scorer": "nli"}}
    client = served()
    assert client.post("/models/topics", json=body).status_code == 200
    tokens = json.loads(client.lines[-1])["tokens"]
    found = [served(max_tokens=tokens + more).post("/models/topics", json=body).status_code for more in (1, 0, -1)]
    assert found == [200, 200, 413]


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


def test_the_bytes_of_a_body_of_the_page(served):
    client = served(max_body_bytes=2000)
    content = json.dumps({"data": ["a film"]}).encode()
    found = [
        client.post("/gradio_api/call/classify_sentiment", content=content.ljust(size), headers=JSON).status_code
        for size in (1999, 2000, 2001)
    ]
    assert found == [200, 200, 413]


def test_the_page_hands_out_no_file_and_fetches_no_address(served, tmp_path, capsys):
    client = served()
    (tmp_path / "secret").write_text(CANARY)
    for path in (str(tmp_path / "secret"), "https://127.0.0.1:9/x", "/etc/passwd"):
        named = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for data in (["x", [named], False, "topics"], [named, ["a"], False, "topics"], [{"deep": [named]}]):
            answer = client.post("/gradio_api/call/classify_topics", json={"data": data})
            assert answer.status_code == 400 and "no file that was uploaded" in answer.json()["error"]
        escaped = json.dumps({"data": [named]}).replace("gradio.FileData", "gradio\\u002eFileData").encode()
        assert client.post("/gradio_api/call/classify_topics", content=escaped, headers=JSON).status_code == 400
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
    addresses = ("file=https://127.0.0.1:9/x", "file=http%3A//127.0.0.1:9/x", "proxy=https://x.hf.space/")
    routes = ("uploads", "stream/a/b/c", "deep_link", "component_server", "monitoring")
    for closed in addresses + routes:
        assert client.get(f"/gradio_api/{closed}").status_code == 403, closed
        assert client.post(f"/gradio_api/{closed}", files={"files": b"a"}).status_code == 403, closed
    for closed in ("/file=/etc/passwd", "/proxy=https://x.hf.space/", "/upload", "/monitoring"):
        assert client.get(closed).status_code == 403, closed


def uploaded(client, content, name="t.csv"):
    answer = client.post("/gradio_api/upload", files={"files": (name, content)})
    return answer.json()[0] if answer.status_code == 200 else answer.status_code


def test_the_bytes_of_an_upload(served, monkeypatch):
    monkeypatch.setattr(
        "service.ui.restrictions.UPLOADS_AT_ONCE", 10_000
    )  # uploads of earlier tests take room in this process
    client = served(max_upload_bytes=200_000)
    assert [isinstance(uploaded(client, b"a" * size), str) for size in (199_999, 200_000)] == [True, True]
    assert uploaded(client, b"a" * 200_001) == 413
    assert uploaded(client, b"a" * 300_000) == 413


def test_an_upload_may_be_named_and_nothing_beside_it(served, tmp_path):
    client = served()
    path = uploaded(client, b"text\na film\n")
    (tmp_path / "secret").write_text(CANARY)

    def ask(**named):
        body = {"data": [named | {"meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
        return client.post("/gradio_api/call/classify_sentiment", json=body).status_code

    assert ask(path=path) == 200
    folder = path.rpartition("/")[0]
    for other in (folder, f"{folder}/../../secret", f"{folder}/none.csv", str(tmp_path / "secret"), f"{path}\0", "", 7):
        assert ask(path=other) == 400, other
    (link := tmp_path / "link").symlink_to(tmp_path / "secret")
    assert ask(path=str(link)) == 400
    assert ask(path=path, is_stream=True) == 400 and ask(path=path, more="a") == 400


def test_uploads_take_a_bounded_room_and_the_old_ones_go(served, monkeypatch):
    from service.ui import restrictions

    client = served(max_upload_bytes=100_000)
    monkeypatch.setattr(restrictions, "UPLOADS_AT_ONCE", (restrictions.sweep() + 250_000) / 100_000)
    assert isinstance(first := uploaded(client, b"a" * 100_000), str)
    assert isinstance(uploaded(client, b"b" * 90_000), str)
    assert uploaded(client, b"c") == 429
    (restrictions.folder() / "tmp1234").write_bytes(b"a part of an upload that never came to its end")
    monkeypatch.setattr(restrictions, "KEPT_S", -1.0)
    assert isinstance(uploaded(client, b"c"), str)
    assert not Path(first).exists() and not (restrictions.folder() / "tmp1234").exists()


def test_uploads_on_their_way_take_room_too(monkeypatch):
    from service.ui import restrictions

    async def never_done(scope, receive, send):
        await asyncio.sleep(60)

    refused = []

    def refusal(scope, error):
        async def answer(scope, receive, send):
            refused.append(error)

        return answer

    async def many():
        monkeypatch.setattr(restrictions, "sweep", lambda: 0)
        entrance = restrictions.GradioRestrictions(
            never_done, max_body_bytes=100, max_upload_bytes=1000, refusal=refusal
        )
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
        calls = [asyncio.ensure_future(entrance(scope, None, None)) for _ in range(restrictions.UPLOADS_AT_ONCE + 3)]
        await asyncio.sleep(0.5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert entrance._uploading == 0

    asyncio.run(many())
    assert len(refused) == 3 and all("no room" in str(error) for error in refused)


def test_nobody_goes_past_the_pages_queue(served):
    client = served()
    events = client.get("/config").json()["dependencies"]
    queued = [one["id"] for one in events if one["queue"] is not False and one["backend_fn"]]
    assert len(queued) > 20
    for number in queued:
        answer = client.post("/gradio_api/run/predict", json={"data": [], "fn_index": number})
        assert answer.status_code == 404, number
    for name in ("classify_topics", "classify_sentiment"):
        assert client.post(f"/gradio_api/run/{name}", json={"data": ["a"]}).status_code == 404


def test_what_is_wrong_on_the_page_is_in_no_log(served, capsys):
    client = served()
    for data in ([CANARY], [CANARY, CANARY], [CANARY, "sentiment", CANARY], [[CANARY]], [{"a": CANARY}]):
        for name in ("classify_sentiment", "classify_topics"):
            begun = client.post(f"/gradio_api/call/{name}", json={"data": data}).json()
            client.get(f"/gradio_api/call/{name}/{begun['event_id']}")
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err + "".join(client.lines)


def test_a_long_list_is_refused_before_its_elements_are_looked_at(served):
    client = served()
    begin = time.monotonic()
    for path, body in {
        "/v1/classify": {"input": [0] * 500_000},
        "/models/topics": {"inputs": "a", "parameters": {"candidate_labels": [[0]] * 500_000}},
        "/models/sentiment": {"inputs": "a", **{f"x{n}": 0 for n in range(100_000)}},
        "/v1/systemone": {"model": "topics", "state": "a", "questions": {f"q{n}": 0 for n in range(100_000)}},
        "/predict": {"inputs": [["a"]] * 200_000},
    }.items():
        assert client.post(path, json=body).status_code in (413, 422), path
    many = {"inputs": "a", "parameters": {"candidate_labels": ",".join(f"a{n}" for n in range(250_000))}}
    assert client.post("/models/topics", json=many).status_code == 413
    assert time.monotonic() - begin < 20  # each took minutes


def test_a_body_that_never_comes_gives_its_place_back(served, monkeypatch):
    monkeypatch.setattr("service.server.routes.classification.BODY_S", 0.2)
    client = served(max_concurrent=2)

    def slowly():
        yield b"{"
        time.sleep(1)
        yield b"}"

    engine = client.app.state.store.get("sentiment")
    assert client.post("/models/sentiment", content=slowly(), headers=JSON).status_code in (400, 504)
    assert engine._active_calls == 0 and client.post("/models/sentiment", json=ASK).status_code == 200


def test_a_refused_request_does_not_make_others_wait(served):
    client = served(max_tokens=30)
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    engine = client.app.state.store.get("sentiment")
    before = engine._tokens_per_call
    long = [f"good film {n} " * 20 for n in range(20)]
    assert client.post("/models/sentiment", json={"inputs": long}).status_code == 413
    assert engine._tokens_per_call <= before + 1 and engine._active_calls == 0


def test_a_call_is_counted_at_the_model_it_asks(served):
    client = served()
    engines = [client.app.state.store.get(name) for name in ("sentiment", "topics")]
    questions = {"q": {"type": "choice", "criteria": {"a": None, "b": None}}}
    for path, body in {
        "/v1/classify": {"model": "sentiment", "input": "a"},
        "/v1/systemone": {"model": "topics", "state": "a", "questions": questions},
        "/predict": {"inputs": "a"},
        "/": {"inputs": []},
    }.items():
        client.post(path, json=body)
        assert [engine._active_calls for engine in engines] == [0, 0], path
    engines[1]._active_calls = 10_000
    assert (
        client.post("/v1/systemone", json={"model": "topics", "state": "a", "questions": questions}).status_code == 429
    )
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    engines[1]._active_calls = 0


def test_labels_are_counted_in_all_questions_of_a_request(served):
    client = served(max_labels=4)
    sets = {"inputs": ["a", "b"], "parameters": {"candidate_labels": [["x", "y"], ["x", "y", "z"]]}}
    assert client.post("/models/topics", json=sets).status_code == 413
    choice = {"type": "choice", "criteria": {"x": None, "y": None, "z": None}}
    body = {"model": "topics", "state": "a", "questions": {"one": choice, "two": choice}}
    assert client.post("/v1/systemone", json=body).status_code == 413


def test_the_calls_of_a_model_in_progress(served, monkeypatch):
    begun, go_on = [], threading.Event()

    async def slow(self, inputs, **options):
        begun.append(1)
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return [Answer(("negative", "positive"), (0.5, 0.5), False)]

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", slow)
    client = served(max_concurrent=3)
    with ThreadPoolExecutor(3) as pool:
        for count in range(3):
            pool.submit(client.post, "/models/sentiment", json=ASK)
            while len(begun) <= count:
                time.sleep(0.01)
        refused = client.post("/models/sentiment", json=ASK)
        assert refused.status_code == 429 and "at its limit with 3 calls" in refused.json()["error"]
        assert refused.headers["Retry-After"] == "1" and refused.headers["X-Request-Id"]
        assert client.post("/predict", json=ASK).json()["error_type"] == "Overloaded"
        go_on.set()
    assert client.post("/models/sentiment", json=ASK).status_code == 200
    assert client.app.state.store.get("sentiment")._active_calls == 0


def test_the_seconds_of_a_request(served, monkeypatch):
    async def slow(self, inputs, **options):
        await asyncio.sleep(5)

    monkeypatch.setattr("service.inference.engine.Engine.aclassify", slow)
    client = served(request_seconds=0.2)
    begin = time.monotonic()
    answer = client.post("/models/sentiment", json=ASK)
    assert answer.status_code == 504 and "longer than the 0.2 s" in answer.json()["error"]
    assert time.monotonic() - begin < 3
    assert client.post("/predict", json=ASK).json()["error_type"] == "Backend"


def test_the_seconds_in_the_queue(served, monkeypatch):
    client = served(queue_seconds=0.3)
    client.post("/models/sentiment", json=ASK)  # the queue knows now how fast the model is
    engine = client.app.state.store.get("sentiment")
    run, slow = engine.backend.run, []

    def hold(*args, **kwargs):
        slow.append(1)
        time.sleep(0.8)
        return run(*args, **kwargs)

    monkeypatch.setattr(engine.backend, "run", hold)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/models/sentiment", json={"inputs": "first"})
        while not slow:
            time.sleep(0.01)
        second = pool.submit(client.post, "/models/sentiment", json={"inputs": "second"})
        assert first.result().status_code == 200
        answer = second.result()
    assert answer.status_code == 429 and "waited longer than a request may" in answer.json()["error"]
    assert int(answer.headers["Retry-After"]) >= 1 and len(slow) == 1


def test_errors_carry_the_request_id_in_their_dialects_shape(served):
    client = served(keys=f"team={KEY}")
    plain, kinds = {"error", "request_id"}, {"error", "error_type", "request_id"}
    shapes = {"/models/sentiment": plain, "/predict": kinds, "/v1/classify": plain, "/v1/systemone": {"detail"}}
    for path, shape in shapes.items():
        for headers in ({}, {"X-API-Key": KEY}):
            answer = client.post(path, json={"odd": 1}, headers=headers | {"X-Request-Id": "mine-1"})
            assert answer.status_code in (400, 401, 422) and set(answer.json()) == shape, (path, answer.text)
            assert answer.headers["X-Request-Id"] == "mine-1" and answer.json().get("request_id", "mine-1") == "mine-1"


def test_while_the_server_stops_it_refuses_and_says_so(served):
    client = served()
    client.app.state.draining = True
    answer = client.post("/models/sentiment", json=ASK)
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "about to stop" in answer.json()["error"]
    assert client.post("/predict", json=ASK).json()["error_type"] == "Unhealthy"
    assert client.get("/health/live").status_code == 200 and client.get("/health/ready").status_code == 503


def test_texts_labels_and_tokens_are_in_no_log_line_and_no_metric(served, monkeypatch, capsys):
    client = served()
    ours = {"inputs": f"{CANARY} text", "parameters": {"candidate_labels": [f"{CANARY} label", "b"],
            "hypothesis_template": f"{CANARY} {{}}"}}  # fmt: skip
    bodies = {
        "/models/sentiment": {"inputs": CANARY}, "/models/topics": ours,
        "/": {"inputs": CANARY}, "/predict": {"inputs": CANARY},
        "/v1/classify": {"input": CANARY},
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
    assert any('"crash": "ZeroDivisionError"' in line and "test_guard.py" in line for line in client.lines)
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
