"""The server below a path prefix, through a real reverse proxy: the web UI in a browser, the API, real clients."""

from __future__ import annotations

import json
import warnings

import httpx
import pytest
from huggingface_hub import InferenceClient
from reverse_proxy import below

from service import Classifier

KEY = "0123456789abcdef0123"
PREFIX = "/tools/rehead"


@pytest.fixture(scope="module", params=["prefix-removed", pytest.param("prefix-kept", marks=pytest.mark.slow)])
def proxied(request, start_server, tiny_models):
    """The address of a server with a key behind a proxy, and the server."""
    keeps_prefix = request.param == "prefix-kept"
    flags = ("--root-path", PREFIX) if keeps_prefix else ("--trusted-proxies", "127.0.0.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REHEAD_API_KEYS", f"team={KEY}")
        server = start_server(tiny_models, *flags)
    origin = "/".join(server.address.split("/")[:3])
    try:
        with below(PREFIX, origin, keeps_prefix=keeps_prefix) as address:
            yield address, server
    finally:
        server.stop()


def test_the_page_works_below_the_prefix_from_the_login_on(proxied, browser, opened):
    address, _ = proxied
    context = browser.browser.new_context()
    login = context.new_page()
    login.goto(f"{address}/")
    assert login.url == f"{address}/login"
    login.fill("#key", KEY)
    login.click("button")
    login.wait_for_selector('[role=tab][aria-selected="true"]')
    assert login.url == f"{address}/"
    login.close()
    page = opened(f"{address}/", context)
    refused = []
    page.on("response", lambda answer: refused.append((answer.status, answer.url)) if answer.status >= 400 else None)
    page.fill("#sentiment-text textarea", "a warm film")
    page.click("#sentiment-classify")
    page.wait_for_selector("#sentiment-scores dd")
    page.click("#sentiment-snippet button")
    page.wait_for_function(
        "url => document.querySelector('#sentiment-code').innerText.includes(url)", arg=f"{address}/models/sentiment"
    )
    page.get_by_role("tab", name="Batch").click()
    page.click("#batch-example")
    page.wait_for_function("document.querySelector('#batch-column input').value === 'text'")
    page.click("#batch-score")
    page.wait_for_selector("#batch-download", state="visible")
    with page.expect_download() as download:
        page.click("#batch-download")
    assert "text" in download.value.path().read_text(encoding="utf-8").splitlines()[0]
    page.get_by_role("link", name="HTTP API").click()
    page.wait_for_url(f"{address}/docs")
    page.get_by_role("link", name="/openapi.json").click()
    page.wait_for_url(f"{address}/openapi.json")
    assert refused == []
    context.close()


def test_clients_work_below_the_prefix(proxied, tiny_sentiment, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address, server = proxied
    expected = {one["label"]: pytest.approx(one["score"], abs=2e-6) for one in Classifier(tiny_sentiment)("a", top_k=2)}
    answer = InferenceClient(base_url=f"{address}/models/sentiment", api_key=KEY).text_classification("a")
    assert {one.label: one.score for one in answer} == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from gradio_client itself
        from gradio_client import Client

        client = Client(f"{address}/", verbose=False, headers={"Authorization": f"Bearer {KEY}"})
        rows = client.predict("a", api_name="/classify_sentiment")
        client.close()
    assert {row["label"]: row["score"] for row in rows} == expected
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{address}/openapi.json", headers=headers).json()["servers"] == [{"url": PREFIX}]
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    assert {line["address"] for line in lines} == {"127.0.0.1" if server.address.endswith(PREFIX) else "203.0.113.7"}
