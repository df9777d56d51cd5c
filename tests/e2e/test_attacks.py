"""What was found by attacking a server on loopback, and by killing it."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

import httpx
import pytest

ASK = {"inputs": "I loved it."}


def has_ipv6():
    """Whether this machine has the loopback address of IPv6."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def upload(server):
    """Upload a table, and return its folder's folder: that of the server."""
    answer = httpx.post(f"{server.address}/gradio_api/upload", files={"files": ("t.csv", b"text\na film\n")})
    return Path(answer.json()[0]).parents[1]


@pytest.mark.slow
def test_a_server_that_was_killed_leaves_uploads_that_the_next_one_deletes(
    start_server, tiny_models, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    killed, running = start_server(tiny_models), start_server(tiny_models)
    folders = upload(killed), upload(running)
    killed.stop()
    assert all(folder.is_dir() for folder in folders) and len(set(folders)) == 2
    third = start_server(tiny_models)
    upload(third)
    assert not folders[0].exists() and folders[1].is_dir()
    assert httpx.post(f"{running.address}/", json=ASK).status_code == 200
    for server, number in ((running, signal.SIGHUP), (third, signal.SIGTERM)):
        assert server.stop(number) == (0, "")
    assert not list(tmp_path.glob("*rehead*"))


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
def test_idle_connections_keep_nobody_out_of_a_server_on_ipv6(start_server, tiny_models):
    server = start_server(tiny_models, "--host", "::1", "--max-connections", "20", "--requests-per-minute", "3")
    try:
        assert server.address.startswith("http://[::1]:")
        port = int(server.address.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(("::1", port)))
            assert httpx.get(f"{server.address}/health").status_code == 200
            assert httpx.head(f"{server.address}/health").status_code == 200
            assert httpx.post(f"{server.address}/models/sentiment", json=ASK).status_code == 200
        answers = [
            httpx.post(f"{server.address}/", json=ASK, headers={"X-Forwarded-For": f"192.0.2.{number}"})
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]  # a client cannot choose its address
        assert httpx.get(f"{server.address}/health", headers={"Host": "[::1]:1"}).status_code == 200
        assert httpx.get(f"{server.address}/health", headers={"Host": "evil.example"}).status_code == 403
    finally:
        assert server.stop(signal.SIGTERM) == (0, "")
