"""Measure the scoring of large files: `python benchmarks/files.py --rows 100000 10000000 --backend dummy`.

Writes synthetic tables, and measures time and memory of `rehead predict FILE -o OUT` in a separate process. Scores are
not checked.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = (
    "a",
    "truly",
    "great",
    "film",
    "that",
    "nobody",
    "should",
    "miss",
    "dull",
    "and",
    "far",
    "too",
    "long",
    "story",
)


def write(file: Path, rows: int) -> None:
    """Write a table of distinct texts, each with a number and a note."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write("id,text,note\n")
        for row in range(rows):
            words = " ".join(WORDS[(row * step + step) % len(WORDS)] for step in range(1, 4 + row % 9))
            stream.write(f"{row:09d},{words} {row},note {row % 7}\n")


def peak_of(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of a command."""
    begin = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Measure each number of rows in a separate process, the smallest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="rows of each table")
    parser.add_argument("--backend", default="dummy", help="backend of `rehead predict`")
    parser.add_argument("--into", default=".csv", choices=[".csv", ".jsonl", ".parquet"], help="output format")
    args = parser.parse_args()
    print("| rows | backend | into | seconds | rows/s | peak MB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for rows in sorted(args.rows):  # ru_maxrss is the peak of all children so far
            source, out = Path(folder) / "in.csv", Path(folder) / f"out{args.into}"
            write(source, rows)
            command = [sys.executable, "-m", "service.cli", "predict", "sentiment", str(source), "-o", str(out)]
            seconds, peak = peak_of(command, os.environ | {"REHEAD_BACKEND": args.backend, "PYTHONPATH": "."})
            cells = (f"{rows:,}", args.backend, args.into, f"{seconds:.0f}", f"{rows / seconds:,.0f}", f"{peak:.0f}")
            print(f"| {' | '.join(cells)} |", flush=True)
            out.unlink()


if __name__ == "__main__":
    main()
