"""What a server does when a model crashes or hangs, when it is told to end, when callers leave or stall."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from service.app import create_app
from service.settings import ServeSettings

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
        until = time.monotonic() + 60
        while not self.server.started:
            assert time.monotonic() < until
            time.sleep(0.02)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def engine(self):
        return self.app.state.store.get("sentiment")

    def ask(self, text, timeout=30):
        """Status and seconds of a request."""
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/models/sentiment", json.dumps({"inputs": text}), HEAD)
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - begin
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


def under_load(server, act, seconds):
    """What requests gave that eight callers sent while something was done to the server."""
    stop, found = threading.Event(), []

    def caller(number):
        count = 0
        while not stop.is_set():
            count += 1
            found.append(server.ask(f"good film {number} {count}"))

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(caller, number) for number in range(8)]
        time.sleep(0.3)
        act()
        time.sleep(seconds)
        stop.set()
        for one in callers:
            one.result(30)
    return found


def test_a_model_that_raises_fails_the_requests_it_had_and_no_other(running, monkeypatch):
    run, left = running.engine.backend.run, [20]

    def raises(*given, **named):
        if left[0] > 0:
            left[0] -= 1
            raise RuntimeError("a fault of the runtime")
        return run(*given, **named)

    found = under_load(running, lambda: monkeypatch.setattr(running.engine.backend, "run", raises), 0.7)
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 500} and statuses.count(200) > 20 and max(took for _, took in found) < 5
    assert running.ask("good film")[0] == 200 and left == [0]


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_model_that_hangs_is_loaded_anew_and_every_request_ends(running, monkeypatch, rounds):
    monkeypatch.setattr("service.inference.batch_queue.HANG_S", 0.5)
    assert running.ask("so that the queue knows how fast the model is")[0] == 200
    released = threading.Event()
    for done in range(rounds):
        backend, hung = running.engine.backend, threading.Event()
        run = backend.run

        def hang(*given, run=run, hung=hung, **named):
            if not hung.is_set():
                hung.set()
                released.wait(60)
            return run(*given, **named)

        found = under_load(running, lambda hang=hang, backend=backend: setattr(backend, "run", hang), 2.5)
        assert hung.is_set() and max(took for _, took in found) < 5
        statuses = {status for status, _ in found}
        assert 500 in statuses and 200 in statuses and statuses <= {200, 429, 500}
        begin = time.monotonic()
        assert running.ask("good film")[0] == 200 and time.monotonic() - begin < 5
        assert running.metric("model_restarts_total") == done + 1 and running.engine.backend is not backend
    released.set()


def test_callers_who_hang_up_never_reach_the_model(running, monkeypatch):
    run, computed = running.engine.backend.run, []
    held = threading.Event()

    def hold(inputs, **named):
        computed.append(len(inputs["input_ids"]))
        held.wait(10)
        return run(inputs, **named)

    monkeypatch.setattr(running.engine.backend, "run", hold)
    body = json.dumps({"inputs": "a text"})
    lines = ("POST /models/sentiment HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.ask, "the first")
        while not computed:
            time.sleep(0.01)
        callers = []
        for _ in range(100):
            caller = socket.create_connection(("127.0.0.1", running.port))
            caller.sendall((head + body).encode())
            callers.append(caller)
        time.sleep(0.5)
        for caller in callers:
            caller.close()
        time.sleep(0.5)
        held.set()
        assert first.result()[0] == 200
    assert running.ask("the last")[0] == 200
    assert sum(computed) - 2 <= 5  # of 100
    gone = [line for line in map(json.loads, running.lines) if line["code"] in (400, 499)]
    assert len(gone) >= 95


@pytest.mark.slow
def test_slow_callers_do_not_hold_up_the_others(running):
    def p99():
        return sorted(running.ask(f"good film {n}")[1] for n in range(100))[98]

    p99()
    before = min(p99() for _ in range(3))
    slow = []
    for _ in range(200):
        caller = socket.create_connection(("127.0.0.1", running.port))
        caller.sendall(b"POST /models/sentiment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
        slow.append(caller)
    during = min(p99() for _ in range(3))
    for caller in slow:
        caller.close()
    assert during < 1.5 * before + 0.005


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
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
            time.sleep(0.7)
            begin = time.monotonic()
            code, said = server.stop(signal.SIGTERM)
            took = time.monotonic() - begin
            stop.set()
        assert (code, said) == (0, "") and took < 30
        accepted = {line["request_id"]: line["code"] for line in map(json.loads, server.log)}
        told = dict(answered)
        assert len(told) > 20 and set(accepted.values()) == {200, 503}  # it says so before it listens no more
        assert {name: code for name, code in accepted.items() if told.get(name) != code} == {}
