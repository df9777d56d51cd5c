"""A real server in a separate process, as a user starts it, and a real browser."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest


class Server:
    """`rehead serve` on a free port; `lines` is its output until all models are loaded and measured."""

    def __init__(self, models: Path, *arguments: str, seconds: float = 600.0, python: str = sys.executable) -> None:
        command = [python, "-m", "service.cli", "serve", "--port", "0", "--models", str(models), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        printed: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, printed), daemon=True).start()
        self.log: list[str] = []
        self._logging = threading.Thread(target=self._read_log, daemon=True)
        self._logging.start()
        self.lines: list[str] = []
        # models of replicas are loaded in other processes, which print elsewhere
        awaited = ("answers at",) if "ray" in arguments else ("answers at", "ready: ")
        while not all(any(said in line for line in self.lines) for said in awaited):
            try:
                self.lines.append(printed.get(timeout=seconds))
            except queue.Empty:
                self.stop()
                raise AssertionError(f"the server was not ready within {seconds} s") from None
            if self.lines[-1] == "":
                raise AssertionError(f"the server stopped: {self.stop()[1]}")
        (address,) = (line for line in self.lines if "answers at" in line)
        self.address = re.search(r"https?://\S+", address)[0]

    @staticmethod
    def _read(stream, printed) -> None:
        for line in stream:
            printed.put(line.rstrip("\n") or " ")
        printed.put("")

    def stop(self, number: int | None = None, seconds: float = 30.0) -> tuple[int, str]:
        """Stop the server, with a signal or else SIGKILL; return its exit code and stderr without log lines."""
        if number is None:
            self.process.kill()
        else:
            self.process.send_signal(number)
        code = self.process.wait(timeout=seconds)
        self._logging.join(timeout=seconds)
        self.process.stderr.close()
        self.process.stdout.close()
        return code, "".join(line for line in self.log if not line.startswith("{"))

    def _read_log(self) -> None:
        """Read stderr: a full pipe would block the server."""
        for line in self.process.stderr:
            self.log.append(line)


@pytest.fixture(scope="session")
def start_server():
    """Return the class that starts a server."""
    return Server


@pytest.fixture(scope="session")
def server(tiny_models):
    """Serve the tiny models; the server must exit with 0 on SIGTERM."""
    running = Server(tiny_models, "--max-texts", "256", "--max-tokens", "1000000")
    yield running
    assert running.stop(signal.SIGTERM) == (0, "")


CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"]
CHROMIUM_FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
TIMEOUT_MS = 120_000


def find_chromium(playwright) -> str | None:
    path = playwright.chromium.executable_path
    if path and os.path.exists(path):  # noqa: PTH110 (playwright returns a string)
        return path
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")  # its event loop would block tests that run their own
def browser():
    if not os.environ.get("REHEAD_REQUIRE_BROWSER"):
        pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            reason = f"no Chromium was found (searched for playwright's own and {', '.join(CHROMIUM_NAMES)})"
            if os.environ.get("REHEAD_REQUIRE_BROWSER"):
                pytest.fail(f"{reason}, and REHEAD_REQUIRE_BROWSER forbids skipping")
            pytest.skip(reason)
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})  # its pages share a cache
        context.set_default_timeout(TIMEOUT_MS)
        yield context
        browser.close()


@pytest.fixture
def opened(browser):
    """Return a function that opens pages of a server; they may send requests to it only, and raise no errors."""
    pages, requested, failed = [], [], []

    def open_page(address, context=browser):
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        pages.append(page)
        page.on("request", lambda request: requested.append((address, request.url)))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(address)
        page.wait_for_selector('[role=tab][aria-selected="true"]')
        page.wait_for_selector("textarea >> visible=true")
        return page

    yield open_page
    for page in pages:
        page.close()
    origins = {address: "/".join(address.split("/")[:3]) for address, _ in requested}
    foreign = [url for address, url in requested if not url.startswith((origins[address], "data:", "blob:"))]
    assert requested and not foreign and not failed


@pytest.fixture
def page(opened, server):
    """Return a newly opened page."""
    return opened(server.address)


@pytest.fixture(scope="session")
def workshop(start_server, tiny_models, tiny_base, tmp_path_factory):
    """Serve with training, corrections and tables enabled; the folder of the server is `workshop.home`."""
    home = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_models, home / "models")
    (home / "tables").mkdir()
    rows = [f"{('good', 'bad')[row % 2]} film {row},{('yes', 'no')[row % 2]}" for row in range(64)]
    (home / "tables" / "films.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    running = start_server(
        home / "models",
        *("--allow-training", "--bases", str(tiny_base), "--tables", str(home / "tables")),
        *("--feedback", str(home / "corrections.jsonl")),
    )
    running.home = home
    yield running
    assert running.stop(signal.SIGTERM) == (0, "")
