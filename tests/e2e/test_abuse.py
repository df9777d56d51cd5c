"""Minutes of mixed abuse: the server goes on answering, and its memory and its open files do not grow."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

SECONDS = float(os.environ.get("REHEAD_ABUSE_SECONDS", "300"))
ASK = {"inputs": "good film"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc, which this system does not have"),
]


def resident_mb(process: int) -> float:
    """Return the memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(process: int) -> int:
    """Return the number of open files of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


class Abuse(threading.Thread):
    """A client that misuses a server until it is stopped, each time in another way."""

    def __init__(self, address: str, seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.chance, self.stopped = httpx.URL(address), random.Random(seed), stop
        self.number = next(
            event["id"]
            for event in httpx.get(f"{address}/config").json()["dependencies"]
            if event["api_name"] == "classify_sentiment"
        )
        self.left: list[socket.socket] = []

    def run(self) -> None:
        """Misuse the server."""
        ways = (self.idle, self.unfinished, self.uncollected, self.unread, self.malformed, self.too_large, self.uploads)
        while not self.stopped.is_set():
            with contextlib.suppress(OSError, httpx.HTTPError):
                self.chance.choice(ways)()
            while len(self.left) > 30:
                self.left.pop(0).close()
        for connection in self.left:
            connection.close()

    def send(self, content: bytes) -> None:
        """Open a connection, send something, and leave it open."""
        connection = socket.create_connection((self.url.host, self.url.port), 10)
        self.left.append(connection)
        connection.sendall(content)

    def post(self, path: str, **content) -> None:
        """Send a request, and forget the answer."""
        httpx.post(self.url.join(path), timeout=10, **content)

    def idle(self) -> None:
        """Send nothing, or half a head."""
        self.send(self.chance.choice((b"", b"POST / HTTP/1.1\r\nHost: 127")))

    def unfinished(self) -> None:
        """Send a body that does not end."""
        path = self.chance.choice(("/", "/login", "/gradio_api/queue/join", "/gradio_api/upload"))
        headers = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99999"
        self.send(
            f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + b'{"a": "' + b"a" * self.chance.randrange(50_000)
        )

    def uncollected(self) -> None:
        """Have the page compute an answer that nobody collects."""
        body = {"data": ["good film " * self.chance.randrange(1, 900), "sentiment"], "fn_index": self.number}
        self.post("/gradio_api/queue/join", json=body | {"session_hash": f"s{self.chance.random()}".replace(".", "")})

    def unread(self) -> None:
        """Request something large, and read none of it."""
        self.send(b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)

    def malformed(self) -> None:
        """Send what is no request, and calls that are none."""
        self.send(self.chance.randbytes(300))
        self.post("/gradio_api/call/nope", json=[[[]]])
        self.post("/models/sentiment", content=b'{"inputs": ', headers={"Content-Type": "application/json"})

    def too_large(self) -> None:
        """Exceed the limits."""
        self.post("/models/sentiment", json={"inputs": ["a" * 30_000] * 40})
        self.post("/models/topics", json=ASK | {"parameters": {"candidate_labels": [str(n) for n in range(1500)]}})

    def uploads(self) -> None:
        """Upload what nobody uses."""
        self.post("/gradio_api/upload", files={"files": ("t.csv", self.chance.randbytes(20_000))})


def test_minutes_of_mixed_abuse_leave_a_server_that_answers_and_does_not_grow(start_server, tiny_models):
    server = start_server(tiny_models, "--backend", "torch", "--precision", "float32", "--max-connections", "300")
    stop, statuses, memory, files = threading.Event(), [], [], []
    try:
        clients = [Abuse(server.address, seed, stop) for seed in range(4)]
        for client in clients:
            client.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            statuses.append(httpx.post(f"{server.address}/models/sentiment", json=ASK, timeout=30).status_code)
            assert httpx.get(f"{server.address}/health", timeout=30).status_code == 200
            memory.append(resident_mb(server.process.pid))
            files.append(open_files(server.process.pid))
        stop.set()
        for client in clients:
            client.join(30)
        assert set(statuses) <= {200, 429} and statuses.count(200) > len(statuses) / 2
        third = len(memory) // 3
        assert max(memory[-third:]) < max(memory[third : 2 * third]) + 60, (memory[:: max(1, third // 5)],)
        assert max(files) < 450
        assert httpx.post(f"{server.address}/models/sentiment", json=ASK).status_code == 200
        assert not any('"crash"' in line for line in server.log), [line for line in server.log if '"crash"' in line][:3]
    finally:
        stop.set()
        server.stop(signal.SIGTERM)
