"""A server behind a reverse proxy: the path prefix, and whose X-Forwarded headers are believed."""

from __future__ import annotations

import json

import pytest

from service.errors import BadRequest
from service.settings import ServeSettings

pytestmark = pytest.mark.fast

KEY = "0123456789abcdef0123"
ASK = {"inputs": "a film"}
PAGE = {"Accept": "text/html"}
FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/other"}


def addresses(client):
    return [json.loads(line)["address"] for line in client.lines]


@pytest.mark.parametrize("seen", ["", "/tools/rehead"], ids=["removed", "kept"])
def test_every_address_is_below_the_prefix_whether_a_proxy_removes_it_or_not(served, seen):
    client = served(root_path="/tools/rehead/", keys=f"team={KEY}")
    home = client.get(f"{seen}/", headers=PAGE, follow_redirects=False)
    assert (home.status_code, home.headers["location"]) == (303, "/tools/rehead/login")
    login = client.post(f"{seen}/login", content=f"key={KEY}", follow_redirects=False)
    assert (login.status_code, login.headers["location"]) == (303, "/tools/rehead/")
    assert "Path=/tools/rehead/;" in login.headers["set-cookie"]
    headers = {"Authorization": f"Bearer {KEY}"}
    for path in ("/models/sentiment", "/", "/predict"):
        assert client.post(f"{seen}{path}", json=ASK, headers=headers).status_code == 200, path
    assert client.post(f"{seen}/predict", json={}, headers=headers).json()["error_type"] == "Validation"
    docs = client.get(f"{seen}/docs", headers=headers).text
    assert "curl http://127.0.0.1/tools/rehead/predict" in docs and 'href="/' not in docs
    assert client.get(f"{seen}/openapi.json", headers=headers).json()["servers"] == [{"url": "/tools/rehead"}]
    page = client.get(f"{seen}/", headers=headers | PAGE).text
    assert '"root":"http://127.0.0.1/tools/rehead"' in page and 'href="/docs' not in page
    assert {json.loads(line)["route"] for line in client.lines} >= {"/models/{name}", "/predict", "/docs", "/login"}


def test_the_prefix_alone_is_the_page_and_the_default_model(served):
    client = served(root_path="/tools/rehead")
    moved = client.get("/tools/rehead?a=b", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (307, "/tools/rehead/?a=b")
    assert client.post("/tools/rehead", json=ASK).json() == client.post("/", json=ASK).json()
    assert client.post("/tools/rehea", json=ASK).status_code == 404


def test_forwarded_headers_of_nobody_are_believed_by_default(served):
    client = served(keys=f"team={KEY}", address="127.0.0.1")
    assert client.get("/", headers=FORWARDED | PAGE, follow_redirects=False).headers["location"] == "/login"
    login = client.post("/login", content=f"key={KEY}", headers=FORWARDED, follow_redirects=False)
    assert login.headers["location"] == "/" and "Secure" not in login.headers["set-cookie"]
    odd = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Authorization": f"Bearer {KEY}"}
    assert '"root":"http://127.0.0.1"' in client.get("/", headers=odd | PAGE).text
    assert set(addresses(client)) == {"127.0.0.1"}


@pytest.mark.parametrize("trusted", [("10.1.2.3",), ("10.0.0.0/8", "::1")])
def test_a_trusted_proxy_sets_address_scheme_and_prefix(served, trusted):
    client = served(keys=f"team={KEY}", address="10.1.2.3", trusted_proxies=trusted)
    home = client.get("/", headers=FORWARDED | PAGE, follow_redirects=False)
    assert home.headers["location"] == "/other/login"
    login = client.post("/login", content=f"key={KEY}", headers=FORWARDED, follow_redirects=False)
    assert "Secure" in login.headers["set-cookie"] and "Path=/other/;" in login.headers["set-cookie"]
    key = {"Authorization": f"Bearer {KEY}"}
    assert '"root":"https://127.0.0.1/other"' in client.get("/", headers=FORWARDED | PAGE | key).text
    assert set(addresses(client)) == {"203.0.113.7"}
    odd = client.get("/", headers=PAGE | {"X-Forwarded-Prefix": "//evil.example"}, follow_redirects=False)
    assert odd.headers["location"] == "/login"


def test_the_rate_limit_counts_the_address_that_a_trusted_proxy_says(served):
    client = served(requests_per_minute=1, address="10.1.2.3", trusted_proxies=("10.1.2.3",))

    def status(forwarded):
        return client.post("/", json=ASK, headers={"X-Forwarded-For": forwarded}).status_code

    # a client's own header stands before what the proxy appended
    assert [status(one) for one in ("203.0.113.7", "203.0.113.8", "9.9.9.9, 203.0.113.7")] == [200, 200, 429]
    other = served(requests_per_minute=1, address="10.1.2.3")
    answers = [other.post("/", json=ASK, headers={"X-Forwarded-For": f"203.0.113.{n}"}) for n in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"root_path": "tools"}, "write it like /tools/rehead"),
        ({"root_path": "/a/../b"}, "write it like /tools/rehead"),
        ({"root_path": "/models/x"}, "/models is a path of the server itself"),
        ({"trusted_proxies": ("proxy.local",)}, "'proxy.local' is no address and no network"),
        ({"trusted_proxies": ("10.0.0.1/8",)}, "'10.0.0.1/8' is no address and no network"),
    ],
)
def test_an_unusable_prefix_or_proxy_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(BadRequest, match=sentence):
        ServeSettings.from_environment(**values)
