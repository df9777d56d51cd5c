"""The API answers while the page is built, and requests for the page wait for it."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from service.ui.late_page import LatePage

WAIT_S = 30


class Server:
    """An app with one route and a page that is built when `may_build` is set."""

    def __init__(self, error=None):
        self.may_build, self.closed, self.reported = threading.Event(), False, []
        self.error = error
        self.app = FastAPI(lifespan=self.lifespan, openapi_url=None, docs_url=None, redoc_url=None)
        self.app.get("/health")(lambda: "up")
        self.page = LatePage(self.app, self.app, self.mount, self.reported.append)

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


def in_thread(call, answers):
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread


def test_the_api_answers_while_the_page_is_built_and_its_visitors_wait():
    server, answers = Server(), []
    with TestClient(server.page) as client:
        assert client.get("/health").json() == "up"
        visitor = in_thread(lambda: client.get("/").text, answers)
        time.sleep(0.3)
        assert visitor.is_alive() and not answers
        assert client.get("/health").json() == "up"
        server.may_build.set()
        visitor.join(WAIT_S)
        assert answers == ["page"] and client.get("/theme.css").text == "page"
        assert not server.closed
    assert server.closed and not server.reported


def test_where_there_can_be_no_page_the_api_goes_on_and_visitors_get_the_reason():
    server = Server(error=RuntimeError("use gradio 6.31"))
    server.may_build.set()
    with TestClient(server.page) as client:
        with pytest.raises(RuntimeError, match=r"use gradio 6\.31"):
            client.get("/")
        assert client.get("/health").json() == "up"
    assert [str(error) for error in server.reported] == ["use gradio 6.31"]


def test_a_server_that_stops_before_its_page_is_there_stops():
    server = Server()
    with TestClient(server.page) as client:
        assert client.get("/health").json() == "up"
        server.may_build.set()
    assert server.closed
