"""What untrusted clients reach of Gradio: no files, no addresses, bounded uploads, nothing in a log."""

from __future__ import annotations

import asyncio
import json
import traceback
from pathlib import Path
from types import SimpleNamespace

import gradio.queueing
import gradio.route_utils
import gradio.routes
import pytest

from service.errors import BadRequest
from service.server.admission import UPLOADS_STORED, Admission
from service.server.request_record import RECORD, RequestRecord
from service.server.routes import error_responses
from service.settings import ServeSettings
from service.ui import restrictions, upload_folder
from service.ui.page_calls import PageCalls

JSON = {"Content-Type": "application/json"}
CANARY = "canary-7f3a"


def test_the_bytes_of_a_body_of_the_page(served):
    client = served(max_body_bytes=2000)
    content = json.dumps({"data": ["a film", "sentiment"]}).encode()
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
            assert answer.status_code == 400 and "not an upload to this server" in answer.json()["error"]
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
        "service.server.admission.UPLOADS_STORED", 10_000
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


def test_uploads_are_bounded_together_and_the_old_ones_are_deleted(served, monkeypatch):
    client = served(max_upload_bytes=100_000)
    stored = (upload_folder.clean_up() + 250_000) / 100_000
    monkeypatch.setattr("service.server.admission.UPLOADS_STORED", stored)
    assert isinstance(first := uploaded(client, b"a" * 100_000), str)
    assert isinstance(uploaded(client, b"b" * 90_000), str)
    assert uploaded(client, b"c") == 429
    (upload_folder.folder() / "tmp1234").write_bytes(b"a part of an upload that never came to its end")
    monkeypatch.setattr(upload_folder, "UPLOAD_LIFETIME_S", -1.0)
    assert isinstance(uploaded(client, b"c"), str)
    assert not Path(first).exists() and not (upload_folder.folder() / "tmp1234").exists()


def test_uploads_that_are_still_arriving_are_counted(monkeypatch):
    refused = []

    def refusal(scope, error):
        async def answer(scope, receive, send):
            refused.append(error)

        return answer

    async def many():
        arriving = []

        async def never_done(scope, receive, send):
            arriving.append(1)
            await asyncio.Event().wait()

        monkeypatch.setattr(upload_folder, "clean_up", lambda: 0)
        admission = Admission(None, ServeSettings(max_upload_bytes=1024), None)
        middleware = restrictions.GradioRestrictions(never_done, admission=admission, calls=None, refusal=refusal)

        def upload(client):
            record = RequestRecord("id", client=client)
            scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [], RECORD: record}
            return asyncio.ensure_future(middleware(scope, None, None))

        count = UPLOADS_STORED + 3
        calls = [upload("one") for _ in range(count)]
        while len(arriving) + len(refused) < count:
            await asyncio.sleep(0)
        begun = len(arriving)
        assert begun == UPLOADS_STORED * 3 // 4  # the share of one client: the others can still upload
        calls.append(upload("another"))
        while len(arriving) == begun and not calls[-1].done():
            await asyncio.sleep(0)
        assert len(arriving) == begun + 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert admission.uploads.used == 0
        admission.close()

    asyncio.run(asyncio.wait_for(many(), 60))
    assert len(refused) == UPLOADS_STORED // 4 + 3
    assert all("uploads are under way" in str(error) and error.status == 429 for error in refused)


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
            if "event_id" in begun:
                client.get(f"/gradio_api/call/{name}/{begun['event_id']}")
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err + "".join(client.lines)


def test_gradio_reports_exceptions_and_keeps_the_rest_of_the_traceback_module():
    modules = (gradio.queueing, gradio.routes, gradio.route_utils)
    before, reported = [module.traceback for module in modules], []
    try:
        restrictions.replace_traceback_printing(reported.append)
        for module in modules:
            try:
                raise ZeroDivisionError(CANARY)
            except ZeroDivisionError as error:
                module.traceback.print_exc()
                assert reported.pop() is error
                assert CANARY in module.traceback.format_exc()
            assert module.traceback.extract_tb is traceback.extract_tb
            with pytest.raises(AttributeError):
                _ = module.traceback.no_such_function
    finally:
        for module, original in zip(modules, before, strict=True):
            module.traceback = original


def test_no_second_response_is_sent_for_a_refusal_after_the_first_began(monkeypatch):
    """The exception is left to `RequestMiddleware`, which logs it and ends the connection."""
    sent = []

    async def begun(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise BadRequest("too late")

    async def send(message):
        sent.append(message["type"])

    monkeypatch.setattr(upload_folder, "clean_up", lambda: 0)
    admission = Admission(None, ServeSettings(), None)
    refusal = error_responses.response
    middleware = restrictions.GradioRestrictions(begun, admission=admission, calls=None, refusal=refusal)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [], RECORD: RequestRecord("id")}
    with pytest.raises(BadRequest, match="too late"):
        asyncio.run(middleware(scope, None, send))
    assert sent == ["http.response.start"]


@pytest.mark.parametrize("route", ["mcp", "mcp/"])
def test_of_the_model_context_protocol_only_tools_are_answered(route):
    """For resources and prompts, Gradio sends requests to a URL that it makes of a client's Host header."""
    calls = PageCalls(SimpleNamespace(fns={}))
    for method in ("initialize", "notifications/initialized", "ping", "tools/list", "tools/call", "resources/list"):
        calls.check(route, json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode())
    calls.check(route, json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode())
    for method in ("resources/read", "prompts/get", "completion/complete", "tools/call\n", ["tools/call"], 1):
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": "file:///etc/passwd"}}
        for content in (message, [{"method": "ping"}, message]):
            with pytest.raises(BadRequest, match="this server has tools only"):
                calls.check(route, json.dumps(content).encode())
    for content in (b"1", b"[1]", b'"tools/call"', b"null", b""):
        with pytest.raises(BadRequest, match="is a JSON object"):
            calls.check(route, content)


def refused_by_mcp(method, path):
    """Return the status, the headers and the sentence of a request that must not reach Gradio."""
    sent = []

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        raise AssertionError("the request was passed on")

    admission = Admission(None, ServeSettings(), None)
    middleware = restrictions.GradioRestrictions(app, admission=admission, calls=None, refusal=error_responses.response)
    scope = {"type": "http", "method": method, "path": f"/gradio_api/{path}", "headers": []}
    asyncio.run(middleware(scope | {RECORD: RequestRecord("id")}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    ["mcp/sse", "mcp/messages/", "mcp//sse", "mcp/schema", "mcp/<script>/gradio_api/mcp", "mcp/x/../http", "mcpx"],
)
def test_the_model_context_protocol_has_no_route_but_streamable_http(method, path):
    """Gradio's older transport is not bounded, and its page for browsers quotes the path of the request in a script."""
    status, _, sentence = refused_by_mcp(method, path)
    assert status == 403 and "streamable HTTP only" in sentence and "script" not in sentence


@pytest.mark.parametrize("path", ["mcp", "mcp/", "mcp/http", "mcp/http/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "TRACE"])
def test_the_model_context_protocol_is_answered_by_post_only(method, path):
    """No stream stays open, and no page shows headers of a request, such as X-Forwarded-Host."""
    status, headers, _ = refused_by_mcp(method, path)
    assert status == 405 and headers[b"allow"] == b"POST"
