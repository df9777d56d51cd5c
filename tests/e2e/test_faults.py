"""A server whose model crashes or hangs, that is stopped by a signal, whose clients disconnect or stall."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from service.app import create_app
from service.settings import ServeSettings
from tests.support.waiting import DEADLINE_S, until

HEAD = {"Content-Type": "application/json"}


class Running:
    """A server in this process, so that its model can be made to fail."""

    def __init__(self, models, **settings):
        async def build():
            return create_app(ServeSettings(models=models, **settings), log=self.lines.append)

        self.lines: list[str] = []
        self.app = asyncio.run(build())
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until(lambda: self.server.started, "the server's start")
        self.app.state.preload.wait()
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def engine(self):
        return self.app.state.store.get("sentiment")

    @property
    def requests(self):
        """Requests of the model that are counted in."""
        return self.app.state.admission.loads[self.engine].running

    def ask(self, text, timeout=30):
        """Return the status of a request, which must be answered within the timeout."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/models/sentiment", json.dumps({"inputs": text}), HEAD)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf'^rehead_{name}{{model="sentiment"}} (\S+)$', page, re.MULTILINE)[1])

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture
def running(tiny_models):
    server = Running(tiny_models)
    yield server
    server.stop()


class Load:
    """Eight clients that send requests until the block ends; `statuses` holds what they were answered."""

    def __init__(self, server):
        self.server, self.statuses = server, []
        self._stop, self._pool = threading.Event(), ThreadPoolExecutor(8)

    def __enter__(self):
        self._clients = [self._pool.submit(self._send, number) for number in range(8)]
        until(lambda: 200 in self.statuses, "the first answer")
        return self

    def _send(self, number):
        count = 0
        while not self._stop.is_set():
            count += 1
            self.statuses.append(self.server.ask(f"good film {number} {count}"))

    def more(self, status, count):
        """Wait for so many more answers of this status."""
        wanted = self.statuses.count(status) + count
        until(lambda: self.statuses.count(status) >= wanted, f"{count} more answers of {status}")

    def __exit__(self, *error):
        self._stop.set()
        for client in self._clients:
            client.result(DEADLINE_S)
        self._pool.shutdown()


def test_a_model_that_raises_fails_the_requests_it_had_and_no_other(running, monkeypatch):
    run, left = running.engine.backend.run, [20]

    def raises(*given, **named):
        if left[0] > 0:
            left[0] -= 1
            raise RuntimeError("a fault of the runtime")
        return run(*given, **named)

    with Load(running) as load:
        monkeypatch.setattr(running.engine.backend, "run", raises)
        until(lambda: left == [0], "the last fault")
        load.more(200, 20)
    assert set(load.statuses) == {200, 500}
    assert running.ask("good film") == 200


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_model_that_hangs_is_loaded_anew_and_every_request_ends(running, monkeypatch, rounds):
    monkeypatch.setattr("service.inference.batch_queue.HANG_S", 0.5)
    assert running.ask("so that the queue knows how fast the model is") == 200
    released = threading.Event()
    for done in range(rounds):
        backend, hung = running.engine.backend, threading.Event()
        run = backend.run

        def hang(*given, run=run, hung=hung, **named):
            if not hung.is_set():
                hung.set()
                released.wait(2 * DEADLINE_S)
            return run(*given, **named)

        with Load(running) as load:  # each of its requests ends, or its client fails
            backend.run = hang
            load.more(500, 1)
            load.more(200, 20)
        assert hung.is_set() and not released.is_set()
        assert set(load.statuses) <= {200, 429, 500}
        assert running.ask("good film") == 200
        assert running.metric("model_restarts_total") == done + 1 and running.engine.backend is not backend
    released.set()


def test_callers_who_hang_up_never_reach_the_model(running, monkeypatch):
    run, computed = running.engine.backend.run, []
    held = threading.Event()

    def hold(inputs, **named):
        computed.append(len(inputs["input_ids"]))
        held.wait(DEADLINE_S)
        return run(inputs, **named)

    monkeypatch.setattr(running.engine.backend, "run", hold)
    body = json.dumps({"inputs": "a text"})
    lines = ("POST /models/sentiment HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.ask, "the first")
        until(lambda: computed, "the first request runs")
        callers = []
        for _ in range(90):  # within the share of one address
            caller = socket.create_connection(("127.0.0.1", running.port))
            caller.sendall((head + body).encode())
            callers.append(caller)
        until(lambda: running.requests == 91, "all requests are counted in")
        for caller in callers:
            caller.close()
        until(lambda: running.requests == 1, "those of the clients that left are counted out")
        held.set()
        assert first.result() == 200
    assert running.ask("the last") == 200
    assert sum(computed) == 2  # of 92
    gone = [line for line in map(json.loads, running.lines) if line["code"] in (400, 499)]
    assert len(gone) == 90


def test_slow_callers_do_not_hold_up_the_others(running):
    slow = []
    for _ in range(200):
        caller = socket.create_connection(("127.0.0.1", running.port))
        caller.sendall(b"POST /models/sentiment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
        slow.append(caller)
    try:
        assert [running.ask(f"good film {number}") for number in range(100)] == [200] * 100
    finally:
        for caller in slow:
            caller.close()


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_signal_under_load_loses_nothing_that_was_accepted(start_server, tiny_models, rounds):
    for _ in range(rounds):
        server = start_server(tiny_models)
        port = int(server.address.rpartition(":")[2])
        answered, stop = [], threading.Event()

        def caller(number, port=port, answered=answered, stop=stop):
            count = 0
            while not stop.is_set():
                count += 1
                name = f"caller-{number}-{count}"
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                try:
                    connection.request("POST", "/models/sentiment", json.dumps({"inputs": "good film"}),
                                       HEAD | {"X-Request-Id": name})  # fmt: skip
                    answered.append((name, connection.getresponse().status))
                except OSError:  # the server is gone, or was before it took this one
                    stop.wait(0.01)
                finally:
                    connection.close()

        with ThreadPoolExecutor(8) as pool:
            for number in range(8):
                pool.submit(caller, number)
            until(lambda answered=answered: len(answered) > 20, "the first answers")
            try:
                code, said = server.stop(signal.SIGTERM)
            finally:
                stop.set()
        assert (code, said) == (0, "")
        accepted = {line["request_id"]: line["code"] for line in map(json.loads, server.log)}
        told = dict(answered)
        assert len(told) > 20 and set(accepted.values()) == {200, 503}  # it says so before it listens no more
        assert {name: code for name, code in accepted.items() if told.get(name) != code} == {}
