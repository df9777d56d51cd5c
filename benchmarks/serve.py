"""Measure the server under load, on loopback: `python benchmarks/serve.py --peer-python PYTHON`.

Measures capacity, overload, a burst and a long run, and the capacity of the peers (serve_peers.py).

The server is pinned to one core and the load generator, hey (github.com/rakyll/hey, Debian's package), to another.
C is the capacity: the requests a second with the most clients whose p99 stays under 100 ms. A load of a given rate is
sent by twenty generators that start one after the other: a single one sends the requests of all its clients at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
CLIENTS = (1, 2, 4, 8, 16, 32, 48, 64)
PEERS = ("fastapi float32", "fastapi bfloat16", "litserve bfloat16", "ray bfloat16")
LOADS = (("2 C", 2.0), ("5 C", 5.0), ("after it, 0.5 C", 0.5))
COLUMNS = ("load", "offered/s", "good/s", "of C", "good p50 ms", "good p99 ms", "refused p99 ms", "others",
           "live p50 ms", "live max ms")  # fmt: skip
GENERATORS = 20
TEXT = "a truly great film, and I would see it again"
SERVER_CORE, LOAD_CORE = 0, 1


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(name: str, python: str, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server pinned to its core, wait until it answers, and yield its port and process."""
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    if name != "rehead":
        command = [python, "-W", "ignore", str(Path(__file__).with_name("serve_peers.py")), name]
        command += [str(ROOT / "models" / "sentiment"), str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not answers_requests(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} does not answer: {log.read_text()[-1000:]}")
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers_requests(port: int) -> bool:
    """Return whether the server answers a request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/models/sentiment",
        json.dumps({"inputs": TEXT}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        return bool(urllib.request.urlopen(request, timeout=5).status == 200)
    except OSError:
        return False


def hey(port: int, body: Path, clients: int, seconds: float, rate: float | None = None) -> subprocess.Popen[str]:
    """Start a load generator; with a rate, each client sends so many requests a second."""
    command = ["taskset", "-c", str(LOAD_CORE), "hey", "-z", f"{seconds:g}s", "-c", str(clients), "-m", "POST"]
    command += ["-T", "application/json", "-D", str(body), "-o", "csv"]
    command += ["-q", f"{rate:g}"] if rate is not None else []
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}/models/sentiment"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(process: subprocess.Popen[str]) -> list[tuple[float, int, float]]:
    """Return seconds, status and time of every answer."""
    out, _ = process.communicate()
    rows = [line.split(",") for line in out.splitlines()[1:]]
    return [(float(row[0]), int(row[6]), float(row[7])) for row in rows if len(row) >= 8]


def percentile(values: list[float], fraction: float) -> float:
    """Return the value at a fraction of the sorted values; NaN for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else float("nan")


def capacity(port: int, body: Path, seconds: float) -> tuple[float, int, float]:
    """Return requests a second, clients and p99 for the most clients whose p99 stays under 100 ms."""
    best = (0.0, 0, float("nan"))
    for clients in CLIENTS:
        responses = answers(hey(port, body, clients, seconds))
        good = [took for took, status, _ in responses if status == 200]
        p99 = percentile(good, 0.99)
        if p99 < 0.1 and len(good) / seconds > best[0]:
            best = (len(good) / seconds, clients, p99)
        if p99 > 0.2:
            break
    return best


def at_rate(port: int, body: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Return throughput and latencies at so many requests a second, and the latency of the probe meanwhile."""
    clients = max(1, round(rate / GENERATORS))  # each sends about one request a second
    per_client = rate / (GENERATORS * clients)
    probes: list[float] = []
    finished = threading.Event()

    def probe() -> None:
        while not finished.wait(0.5):
            begin = time.perf_counter()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=30).read()
            probes.append(time.perf_counter() - begin)

    running = []
    for _ in range(GENERATORS):
        running.append(hey(port, body, clients, seconds, per_client))
        time.sleep(1 / per_client / GENERATORS if per_client * GENERATORS > 1 else 0.05)
    thread = threading.Thread(target=probe)
    thread.start()
    responses = [response for process in running for response in answers(process)]
    finished.set()
    thread.join()
    good, refused = ([took for took, status, _ in responses if status == wanted] for wanted in (200, 429))
    other_statuses = sorted({status for _, status, _ in responses} - {200, 429})
    return {
        "offered": len(responses) / seconds,
        "good": len(good) / seconds,
        "good_p50": percentile(good, 0.5),
        "good_p99": percentile(good, 0.99),
        "refused_p99": percentile(refused, 0.99),
        "other statuses": other_statuses,
        "live_p50": percentile(probes, 0.5),
        "live_max": max(probes, default=0.0),
    }


def logged_seconds(log: Path) -> dict[int, list[float]]:
    """Return the seconds of requests by status, from the log of the server."""
    seconds: dict[int, list[float]] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{") and '"sentiment"' in line:
            row = json.loads(line)
            seconds.setdefault(row["code"], []).append(row["seconds"])
    return seconds


def soak(
    port: int, body: Path, process: psutil.Process, rate: float, minutes: float
) -> list[tuple[float, int, int, int]]:
    """Return minute, MB, descriptors and threads during a long run."""
    per_client = rate / (GENERATORS * 4)
    running = [hey(port, body, 4, 60 * minutes, per_client) for _ in range(GENERATORS)]
    rows = []
    for minute in range(int(minutes)):
        time.sleep(60)
        rows.append((minute + 1, process.memory_info().rss // 2**20, process.num_fds(), process.num_threads()))
    for generator in running:
        generator.communicate()
    return rows


def peers_table(args: argparse.Namespace, body: Path, log: Path) -> Iterator[str]:
    """Yield the table of the capacity of every peer; an error in place of the figures of one that does not answer."""
    yield "| server | requests/s at p99 < 100 ms | clients | p99 ms |"
    yield "|---|---|---|---|"
    for name in args.peers:
        try:
            with served(name, args.peer_python, log) as (port, _):
                rate, clients, p99 = capacity(port, body, args.seconds)
                yield f"| {name} | {rate:.0f} | {clients} | {1000 * p99:.0f} |"
        except RuntimeError as error:
            yield f"| {name} | {str(error)[:200]!r} | | |"


def overload_table(port: int, body: Path, log: Path, peak: float, overload_s: float) -> Iterator[str]:
    """Yield the table of loads above the capacity and after them, and the latencies in the log of the server."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    for title, times in LOADS:
        seconds = overload_s if times == 2 else 30 if times == 5 else 10
        row = at_rate(port, body, times * peak, seconds)
        cells = [title, f"{row['offered']:.0f}", f"{row['good']:.0f}", f"{row['good'] / peak:.2f}"]
        cells += [f"{1000 * row[key]:.0f}" for key in ("good_p50", "good_p99", "refused_p99")]
        cells += [str(row["other statuses"] or "none")]
        cells += [f"{1000 * row[key]:.0f}" for key in ("live_p50", "live_max")]
        yield f"| {' | '.join(cells)} |"
    statuses = [
        f"{code}: {len(took)} requests, p50 {1000 * median(took):.2f} ms, p99 {1000 * percentile(took, 0.99):.1f} ms"
        for code, took in sorted(logged_seconds(log).items())
    ]
    yield ""
    yield f"In the log of the server: {'; '.join(statuses)}."


def report(args: argparse.Namespace, body: Path, log: Path) -> Iterator[str]:
    """Measure, and yield the report line by line."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    yield f"## Load, {date.today()}"
    yield ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "uvicorn", "gradio"))
    model = cpu[1] if cpu else platform.processor()
    yield f"{model}, one core for the server, one for hey; Python {platform.python_version()}, {versions}"
    yield ""
    yield from peers_table(args, body, log)
    with served("rehead", args.peer_python, log) as (port, process):
        peak, clients, p99 = capacity(port, body, args.seconds)
        yield f"| rehead | {peak:.0f} | {clients} | {1000 * p99:.0f} |"
        yield ""
        light = at_rate(port, body, peak / 10, 20)
        yield f"A tenth of C: p50 {1000 * light['good_p50']:.1f} ms, p99 {1000 * light['good_p99']:.1f} ms."
        yield ""
        if args.overload:
            yield from overload_table(port, body, log, peak, args.overload)
            yield ""
        if args.soak:
            yield "| minute at 0.7 C | MB | descriptors | threads |"
            yield "|---|---|---|---|"
            for row in soak(port, body, process, 0.7 * peak, args.soak):
                yield f"| {' | '.join(map(str, row))} |"


def main() -> None:
    """Print the report, and append it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, help="servers to compare with")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of each step of the capacity")
    parser.add_argument("--overload", type=float, default=180.0, help="seconds at 2 C; 0 for none")
    parser.add_argument("--soak", type=float, default=10.0, help="minutes at 0.7 C; 0 for none")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the tables to this file")
    args = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        body.write_text(json.dumps({"inputs": TEXT}))
        for line in report(args, body, Path(folder) / "log"):
            print(line, flush=True)
            lines.append(line)
    if args.append:
        with args.append.open("a", encoding="utf-8") as stream:
            stream.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
