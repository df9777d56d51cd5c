"""The API answers while the page is built, and requests for the page wait for it."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from service.server.routes import error_responses
from service.ui.late_page import LatePage
from tests.support.waiting import until

WAIT_S = 30


class Server:
    """An app with two routes and a page that is built when `may_build` is set."""

    def __init__(self, error=None):
        self.may_build, self.closed, self.is_draining, self.reported = threading.Event(), False, False, []
        self.error = error
        self.app = FastAPI(lifespan=self.lifespan, openapi_url=None, docs_url=None, redoc_url=None)
        self.app.get("/health")(lambda: "up")
        self.app.post("/")(lambda: "answer")
        self.app.add_middleware(CORSMiddleware, allow_origins=["https://example.org"], allow_methods=["POST"])
        self.page = LatePage(
            self.app,
            self.app,
            self.mount,
            refusal=error_responses.response,
            report=self.reported.append,
            is_draining=lambda: self.is_draining,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        async with self.page.opened():
            yield

    @contextlib.asynccontextmanager
    async def shown(self):
        yield
        self.closed = True

    async def mount(self):
        assert self.may_build.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        self.app.mount("/", PlainTextResponse("page"))
        return self.app, self.shown()


@pytest.fixture
def start():
    """Start servers; pages that are still being built at the end are built then."""
    servers = []

    def make(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield make
    for server in servers:
        server.may_build.set()
    until(lambda: not any(t.name == "rehead-page" for t in threading.enumerate()), "the end of building")


def in_thread(call, answers):
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread


PREFLIGHT = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}


def answers_of_the_api(client):
    assert client.get("/health").json() == "up" and client.post("/").json() == "answer"
    assert client.post("/health").status_code == 405
    assert client.options("/", headers=PREFLIGHT).headers["access-control-allow-origin"] == "https://example.org"


def test_the_api_answers_while_the_page_is_built_and_its_visitors_wait(start):
    server, answers = start(), []
    with TestClient(server.page) as client:
        answers_of_the_api(client)
        visitor = in_thread(lambda: client.get("/").text, answers)
        time.sleep(0.3)
        assert visitor.is_alive() and not answers
        answers_of_the_api(client)
        server.may_build.set()
        visitor.join(WAIT_S)
        assert answers == ["page"] and client.get("/theme.css").text == "page"
        assert client.get("/health").json() == "up"
        assert not server.closed
    assert server.closed and not server.reported


def test_where_there_can_be_no_page_the_api_goes_on_and_visitors_get_the_reason(start):
    server = start(error=ImportError("no module gradio"))
    server.may_build.set()
    with TestClient(server.page) as client:
        for _ in range(2):
            answer = client.get("/")
            assert answer.status_code == 500
            assert answer.json()["error"] == "there is no web UI (ImportError: no module gradio); the API answers"
        assert client.get("/theme.css").status_code == 404
        answers_of_the_api(client)
    assert [str(error) for error in server.reported] == ["no module gradio"]


def test_a_server_that_stops_waits_for_no_page_and_sends_its_visitors_away(start):
    server, answers = start(), []
    with TestClient(server.page) as client:
        visitor = in_thread(lambda: client.get("/"), answers)
        time.sleep(0.2)
        server.is_draining = True
        visitor.join(WAIT_S)
        assert answers[0].status_code == 503 and "shutting down" in answers[0].json()["error"]
        begin = time.monotonic()
    assert time.monotonic() - begin < WAIT_S / 2 and not server.closed
