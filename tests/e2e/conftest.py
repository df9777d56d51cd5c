"""A real server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest


class Server:
    """`rehead serve` on a free port; `lines` is what it printed until it could answer."""

    def __init__(self, models: Path, *arguments: str, seconds: float = 120.0, python: str = sys.executable) -> None:
        command = [python, "-m", "service.cli", "serve", "--port", "0", "--models", str(models), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        printed: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, printed), daemon=True).start()
        self.log: list[str] = []
        self._logging = threading.Thread(target=self._logged, daemon=True)
        self._logging.start()
        self.lines: list[str] = []
        while not self.lines or "answers at" not in self.lines[-1]:
            try:
                self.lines.append(printed.get(timeout=seconds))
            except queue.Empty:
                self.stop()
                raise AssertionError(f"the server said no address within {seconds} s") from None
            if self.lines[-1] == "":
                raise AssertionError(f"the server stopped: {self.stop()[1]}")
        self.address = re.search(r"https?://\S+", self.lines[-1])[0]

    @staticmethod
    def _read(stream, printed) -> None:
        for line in stream:
            printed.put(line.rstrip("\n") or " ")
        printed.put("")

    def stop(self, number: int | None = None, seconds: float = 30.0) -> tuple[int, str]:
        """End the server, with a signal if one is given; its exit code and what it said on stderr."""
        if number is None:
            self.process.kill()
        else:
            self.process.send_signal(number)
        code = self.process.wait(timeout=seconds)
        self._logging.join(timeout=seconds)
        self.process.stderr.close()
        self.process.stdout.close()
        return code, "".join(line for line in self.log if not line.startswith("{"))

    def _logged(self) -> None:
        """A pipe that nobody reads would hold the server up once it is full."""
        for line in self.process.stderr:
            self.log.append(line)


@pytest.fixture(scope="session")
def start_server():
    """What starts a server."""
    return Server


@pytest.fixture(scope="session")
def server(tiny_models):
    """A server of the tiny models; it must leave cleanly when it is told to."""
    running = Server(tiny_models, "--max-texts", "256", "--max-tokens", "1000000")
    yield running
    assert running.stop(signal.SIGTERM) == (0, "")
