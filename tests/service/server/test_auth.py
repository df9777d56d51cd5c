"""Which keys a server takes, where it takes them from, and that none leaks."""

from __future__ import annotations

import pytest

from service.errors import BadRequest
from service.server.auth import ApiKeys, check_exposure
from service.settings import ServeSettings

pytestmark = pytest.mark.fast

KEY, OTHER = "a-long-enough-key-1", "a-long-enough-key-2"
ASK = {"inputs": "I loved it."}


def test_other_addresses_want_a_key_or_the_word(tmp_path, monkeypatch):
    monkeypatch.delenv("REHEAD_API_KEYS", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        settings = ServeSettings(host=host)
        with pytest.raises(BadRequest, match="configure a key with --api-key-file FILE or REHEAD_API_KEYS"):
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
    [
        ("short", "needs 16 characters"),
        ("", "holds no key"),
        (f"a={KEY}\na={OTHER}", "line 2: the key name 'a' is taken"),
    ],
)
def test_keys_that_cannot_be_used_are_a_sentence(tmp_path, monkeypatch, content, sentence):
    monkeypatch.delenv("REHEAD_API_KEYS", raising=False)
    (tmp_path / "keys").write_text(content)
    with pytest.raises(BadRequest, match=sentence) as error:
        ApiKeys.read(ServeSettings(api_key_file=tmp_path / "keys"))
    assert KEY not in str(error.value) and "short" not in str(error.value)
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
