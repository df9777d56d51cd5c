"""Measures the server under load, on loopback: `python benchmarks/serve.py --peer-python PYTHON`.

Knows: capacity, overload, a burst, a long run; the same load put on peers.
Does not know: how a peer serves (serve_peers.py).

The server is held to one core and the load generator, hey (github.com/rakyll/hey, Debian's package), to another.
C is the capacity: requests a second at the most callers whose p99 stays under 100 ms. Load of so many requests a second
comes from twenty generators that begin one after the other: one alone sends all its callers' requests in one moment.
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
CALLERS = (1, 2, 4, 8, 16, 32, 48, 64)
PEERS = ("fastapi float32", "fastapi bfloat16", "litserve bfloat16", "ray bfloat16")
LOADS = (("2 C", 2.0), ("5 C", 5.0), ("after it, 0.5 C", 0.5))
COLUMNS = ("load", "offered/s", "good/s", "of C", "good p50 ms", "good p99 ms", "refused p99 ms", "others",
           "live p50 ms", "live max ms")  # fmt: skip
GENERATORS = 20
TEXT = "a truly great film, and I would see it again"
SERVER_CORE, LOAD_CORE = 0, 1


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def served(name: str, python: str, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server that answers, held to its core: its port and its process."""
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
        while not asked(port):
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


def asked(port: int) -> bool:
    """Whether a question is answered."""
    question = urllib.request.Request(
        f"http://127.0.0.1:{port}/models/sentiment",
        json.dumps({"inputs": TEXT}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        return bool(urllib.request.urlopen(question, timeout=5).status == 200)
    except OSError:
        return False


def hey(port: int, body: Path, callers: int, seconds: float, rate: float | None = None) -> subprocess.Popen[str]:
    """A generator at work; with a rate, each caller sends so many a second."""
    command = ["taskset", "-c", str(LOAD_CORE), "hey", "-z", f"{seconds:g}s", "-c", str(callers), "-m", "POST"]
    command += ["-T", "application/json", "-D", str(body), "-o", "csv"]
    command += ["-q", f"{rate:g}"] if rate is not None else []
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}/models/sentiment"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(process: subprocess.Popen[str]) -> list[tuple[float, int, float]]:
    """Seconds, status and moment of every answer."""
    out, _ = process.communicate()
    rows = [line.split(",") for line in out.splitlines()[1:]]
    return [(float(row[0]), int(row[6]), float(row[7])) for row in rows if len(row) >= 8]


def p(values: list[float], share: float) -> float:
    """A percentile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def capacity(port: int, body: Path, seconds: float) -> tuple[float, int, float]:
    """Requests a second, callers and p99 at the most callers whose p99 stays under 100 ms."""
    best = (0.0, 0, float("nan"))
    for callers in CALLERS:
        found = answers(hey(port, body, callers, seconds))
        good = [took for took, status, _ in found if status == 200]
        late = p(good, 0.99)
        if late < 0.1 and len(good) / seconds > best[0]:
            best = (len(good) / seconds, callers, late)
        if late > 0.2:
            break
    return best


def at_rate(port: int, body: Path, rate: float, seconds: float) -> dict[str, Any]:
    """What came of so many requests a second, and how long the probe took meanwhile."""
    callers = max(1, round(rate / GENERATORS))  # each asks about once a second
    each = rate / (GENERATORS * callers)
    probes: list[float] = []
    over = threading.Event()

    def probe() -> None:
        while not over.wait(0.5):
            begin = time.perf_counter()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=30).read()
            probes.append(time.perf_counter() - begin)

    running = []
    for _ in range(GENERATORS):
        running.append(hey(port, body, callers, seconds, each))
        time.sleep(1 / each / GENERATORS if each * GENERATORS > 1 else 0.05)
    thread = threading.Thread(target=probe)
    thread.start()
    found = [one for process in running for one in answers(process)]
    over.set()
    thread.join()
    good, refused = ([took for took, status, _ in found if status == wanted] for wanted in (200, 429))
    others = sorted({status for _, status, _ in found} - {200, 429})
    return {"offered": len(found) / seconds, "good": len(good) / seconds, "good_p50": p(good, 0.5),
            "good_p99": p(good, 0.99), "refused": len(refused) / seconds, "refused_p99": p(refused, 0.99),
            "other statuses": others, "live_p50": p(probes, 0.5), "live_max": max(probes, default=0.0)}  # fmt: skip


def in_the_log(log: Path) -> dict[int, list[float]]:
    """Seconds of requests by status, as the server saw them."""
    found: dict[int, list[float]] = {}
    for line in log.read_text().splitlines():
        if line.startswith("{") and '"sentiment"' in line:
            row = json.loads(line)
            found.setdefault(row["code"], []).append(row["seconds"])
    return found


def soak(
    port: int, body: Path, process: psutil.Process, rate: float, minutes: float
) -> list[tuple[float, int, int, int]]:
    """Minute, MB, descriptors and threads during a long run."""
    each = rate / (GENERATORS * 4)
    running = [hey(port, body, 4, 60 * minutes, each) for _ in range(GENERATORS)]
    rows = []
    for minute in range(int(minutes)):
        time.sleep(60)
        rows.append((minute + 1, process.memory_info().rss // 2**20, process.num_fds(), process.num_threads()))
    for one in running:
        one.communicate()
    return rows


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="*", default=["fastapi float32", "fastapi bfloat16", "litserve bfloat16", "ray bfloat16"]
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each step of the capacity")
    parser.add_argument("--overload", type=float, default=180.0, help="seconds at 2 C; 0 for none")
    parser.add_argument("--soak", type=float, default=10.0, help="minutes at 0.7 C; 0 for none")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the tables to this file")
    args = parser.parse_args()
    said: list[str] = []

    def say(line: str = "") -> None:
        said.append(line)
        print(line, flush=True)

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    say(f"## Load, {date.today()}")
    say()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "uvicorn", "gradio"))
    model = cpu[1] if cpu else platform.processor()
    say(f"{model}, one core for the server, one for hey; Python {platform.python_version()}, {versions}")
    say()
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body.json", Path(folder) / "log"
        body.write_text(json.dumps({"inputs": TEXT}))
        say("| server | requests/s at p99 < 100 ms | callers | p99 ms |")
        say("|---|---|---|---|")
        for name in args.peers:
            try:
                with served(name, args.peer_python, log) as (port, _):
                    found, callers, late = capacity(port, body, args.seconds)
                    say(f"| {name} | {found:.0f} | {callers} | {1000 * late:.0f} |")
            except RuntimeError as error:
                say(f"| {name} | {str(error)[:200]!r} | | |")
        with served("rehead", args.peer_python, log) as (port, process):
            most, callers, late = capacity(port, body, args.seconds)
            say(f"| rehead | {most:.0f} | {callers} | {1000 * late:.0f} |")
            say()
            calm = at_rate(port, body, most / 10, 20)
            say(f"A tenth of C: p50 {1000 * calm['good_p50']:.1f} ms, p99 {1000 * calm['good_p99']:.1f} ms.")
            say()
            if args.overload:
                say(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
                for title, times in LOADS:
                    seconds = args.overload if times == 2 else 30 if times == 5 else 10
                    row = at_rate(port, body, times * most, seconds)
                    cells = [title, f"{row['offered']:.0f}", f"{row['good']:.0f}", f"{row['good'] / most:.2f}"]
                    cells += [f"{1000 * row[key]:.0f}" for key in ("good_p50", "good_p99", "refused_p99")]
                    cells += [str(row["other statuses"] or "none")]
                    cells += [f"{1000 * row[key]:.0f}" for key in ("live_p50", "live_max")]
                    say(f"| {' | '.join(cells)} |")
                seen = in_the_log(log)
                say()
                say("As the server saw it: " + "; ".join(
                    f"{code}: {len(took)} requests, p50 {1000 * median(took):.2f} ms, p99 {1000 * p(took, 0.99):.1f} ms"
                    for code, took in sorted(seen.items())) + ".")  # fmt: skip
                say()
            if args.soak:
                say("| minute at 0.7 C | MB | descriptors | threads |")
                say("|---|---|---|---|")
                for row in soak(port, body, process, 0.7 * most, args.soak):
                    say(f"| {' | '.join(map(str, row))} |")
    if args.append:
        with args.append.open("a", encoding="utf-8") as stream:
            stream.write("\n" + "\n".join(said) + "\n")


if __name__ == "__main__":
    main()
