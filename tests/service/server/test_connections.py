"""Connections without a request, requests without an end, clients that read nothing: none of them keeps others out."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time

import httpx
import pytest
import uvicorn

from service.server import connections as module
from service.server.connections import Connections, limit_of, protocol_of
from tests.support.waiting import DEADLINE_S, until

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


async def app(scope, receive, send):
    """Answer with ten megabytes on /large; else read the body, and answer with its size."""
    if scope["type"] != "http":
        return
    size = 0
    while scope["method"] == "POST":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    body = b"a" * 10_000_000 if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def running(monkeypatch):
    """Return a function that serves `app` on loopback, and returns its connections and its port."""
    with contextlib.ExitStack() as stack:

        def start(limit=100, proxies=(), app=app, tls=None, **seconds):
            for name, value in ({"SWEEP_S": 0.01} | seconds).items():
                monkeypatch.setattr(module, name, value)
            connections = Connections(limit, proxies)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            quiet = {"lifespan": "off", "log_level": "critical"}
            config = uvicorn.Config(
                app, http=protocol_of(connections), ssl_certfile=tls, loop=f"{module.__name__}:new_event_loop", **quiet
            )
            server = uvicorn.Server(config)

            async def serve():
                closing = asyncio.ensure_future(connections.close_slow())
                await server.serve([listener])
                closing.cancel()

            def run():
                with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
                    runner.run(serve())

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join, DEADLINE_S)
            stack.callback(setattr, server, "should_exit", True)
            until(lambda: server.started, "the server runs")
            return connections, listener.getsockname()[1]

        def connect(port, sent=b""):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            client.sendall(sent)
            return client

        yield start, connect


def is_closed(client):
    """Whether the server closes a connection, possibly after an answer."""
    with contextlib.suppress(ConnectionError):
        while client.recv(65536):
            pass
    return True


def test_idle_connections_keep_nobody_out(running):
    start, connect = running
    connections, port = start(limit=8)
    idle = [connect(port) for _ in range(40)]
    for _ in range(5):
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"abc").text == "3"
    assert len(connections) <= 8 and is_closed(idle[0])


def test_connections_with_a_request_are_not_closed_for_new_ones(running):
    start, connect = running
    connections, port = start(limit=4)
    busy = [connect(port, HEAD + b"a") for _ in range(3)]
    until(lambda: len(connections) == 3, "three requests are under way")
    assert connect(port).recv(100).startswith(b"HTTP/1.1 503 ")  # the share of one address
    for client in busy:
        client.sendall(b"a" * 99)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    until(lambda: httpx.post(f"http://127.0.0.1:{port}/", content=b"a").text == "1", "there is room again")


def test_an_upgrade_to_a_websocket_is_refused_and_counted_out(running):
    start, connect = running
    connections, port = start()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + b"X-n: 1\r\n" * 200 + b"\r\n"
    client = connect(port, head)
    assert client.recv(100).startswith(b"HTTP/1.1 400 ") and is_closed(client)
    until(lambda: len(connections) == 0, "the connection is counted out")


def test_pipelined_requests_do_not_write_to_a_lost_connection(running):
    start, connect = running
    begun, go, errors, ended = threading.Event(), threading.Event(), [], threading.Event()

    async def slow(scope, receive, send):
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.01)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"a"})
        except Exception as error:
            errors.append(error)
        ended.set()

    connections, port = start(app=slow)
    connect(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    until(begun.is_set, "the first request is under way")
    (connection,) = connections._open
    connection.loop.call_soon_threadsafe(connection.transport.abort)
    until(lambda: not len(connections), "the connection is counted out")
    go.set()
    until(ended.is_set, "the first request has ended")
    assert errors == []


def test_a_tls_handshake_has_a_time_limit(running, tmp_path):
    start, connect = running
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "cert.pem").read_text())
    _, port = start(tls=both, HANDSHAKE_S=0.3)
    assert is_closed(connect(port))
    assert httpx.post(f"https://127.0.0.1:{port}/", content=b"abc", verify=False).text == "3"


class Idle:
    """A connection as `Connections` sees it."""

    def __init__(self, address, *, is_idle=True, requests=1, since=0.0):
        self.client, self.is_idle, self.requests, self.since = (address, 1), is_idle, requests, since
        self.transport, self.aborted = self, False

    def abort(self):
        self.aborted = True


def test_a_full_server_gives_one_address_no_more_than_its_share():
    connections = Connections(100)
    assert all(connections.add(Idle("a", is_idle=False)) for _ in range(75))
    others = [Idle(f"b{number}") for number in range(25)]
    assert all(map(connections.add, others))
    assert not connections.add(Idle("a")) and not any(other.aborted for other in others)
    assert connections.add(Idle("c")) and others[0].aborted


def test_a_new_connection_is_not_closed_for_the_next_one():
    connections = Connections(4)
    old = [Idle(f"a{number}", requests=3) for number in range(3)]
    new = Idle("b", requests=0, since=time.monotonic())
    assert all(map(connections.add, [*old, new]))
    assert connections.add(Idle("c", requests=0, since=time.monotonic()))
    assert old[0].aborted and not new.aborted


def test_a_trusted_proxy_may_hold_every_connection(running):
    start, connect = running
    connections, port = start(limit=4, proxies=("127.0.0.1",))
    busy = [connect(port, HEAD + b"a") for _ in range(4)]
    until(lambda: len(connections) == 4, "four requests are under way")
    assert connect(port).recv(100).startswith(b"HTTP/1.1 503 ")
    for client in busy:
        client.sendall(b"a" * 99)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: a\r\n"])
def test_the_head_of_a_request_has_a_time_limit(running, sent):
    start, connect = running
    connections, port = start(HEAD_S=0.05)
    assert is_closed(connect(port, sent))
    until(lambda: not len(connections), "the connection is counted out")


@pytest.mark.parametrize("seconds", [{"BODY_SILENCE_S": 0.05}, {"BODY_S": 0.05}])
def test_a_body_has_a_time_limit(running, seconds):
    start, connect = running
    connections, port = start(**seconds)
    assert is_closed(connect(port, HEAD + b"abc"))
    until(lambda: not len(connections), "the connection is counted out")


def test_a_client_that_reads_nothing_is_closed(running):
    start, connect = running
    connections, port = start(STALL_S=0.05)
    client = connect(port, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    received = client.recv(1)  # it is being answered
    until(lambda: not len(connections), "the connection is closed")
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1_000_000):
            received += part
    assert len(received) < 10_000_000


def test_the_head_of_a_request_has_a_size_limit(running):
    start, connect = running
    _, port = start()
    client = connect(port, b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(2000):
            client.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))
        client.sendall(b"\r\n")
    with contextlib.suppress(ConnectionError):
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_large_head_in_one_read_is_refused_as_well(running):
    start, connect = running
    _, port = start()
    line = b"X-long: " + b"a" * 7_900 + b"\r\n"  # the parser itself takes a line of any length
    client = connect(port, b"GET / HTTP/1.1\r\nHost: a\r\n" + line * 9 + b"\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 431 ")
    assert is_closed(client)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no socket for both families")
def test_an_ipv4_proxy_is_known_on_a_socket_for_both_families(running):
    _, connect = running
    connections = Connections(4, ("127.0.0.1",))
    seen = []

    async def report(scope, receive, send):
        seen.append(scope["client"][0])
        await app(scope, receive, send)

    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        config = uvicorn.Config(report, http=protocol_of(connections), lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
        thread.start()
        try:
            port = listener.getsockname()[1]
            busy = [connect(port, HEAD + b"a") for _ in range(4)]  # one address without a share would hold fewer
            until(lambda: len(connections) == 4, "four requests are under way")
            for client in busy:
                client.sendall(b"a" * 99)
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
                client.close()
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
    assert seen == ["127.0.0.1"] * 4


def test_large_bodies_and_many_requests_on_a_connection_are_no_large_heads(running):
    start, _ = running
    connections, port = start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (500_000, 0, 10, 200_000):
            for _ in range(8):
                assert client.post("/", content=b"a" * size).text == str(size)
        assert len(connections) == 1
    until(lambda: not len(connections), "the connection is counted out")


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(monkeypatch):
    resource = pytest.importorskip("resource")
    limits, said = [1024, 4096], []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: limits.__setitem__(0, values[0]))
    assert limit_of(500, said.append) == 500 and limits[0] == 1024 and not said
    assert limit_of(2000, said.append) == 2000 and limits[0] == 2256 and not said
    assert limit_of(5000, said.append) == 4096 - 256 and limits[0] == 4096
    assert said == ["the limit of 4096 open files allows 3840 connections"]
