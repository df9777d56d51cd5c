"""Measure more than one process: `python benchmarks/scale.py --data ../shared/data --work DIR`.

The same Parquet files are scored by the local loop (`rehead predict`, threads on all cores), by `--engine ray` with
one actor and with one for each core, and by a plain `map_batches` around transformers' pipeline in its best dtype. Each
runs on few files and on many, in turn; the rate is that of the rows in between: start and model load are left out.

`--kill N` scores the files once, and then again while driver or actor is killed at N random points: it prints what
was finished each time, and compares the rows at the end.

`--train` fine-tunes in one process with a thread for each core, and with torchrun in one process of one thread for each
core, with the same global batch; the rate is again that of the rows between a small table and a large one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

from finetune.core.tables.files import read_table, write_table

CORES = len(os.sched_getaffinity(0))
PIPELINE = """
import sys, ray, torch
from transformers import pipeline
source, out, model, actors, dtype, batch = sys.argv[1:]

class Predictor:
    def __init__(self):
        torch.set_num_threads(max(1, int({cores} / int(actors))))
        self.pipe = pipeline("text-classification", model, dtype=getattr(torch, dtype), device="cpu")
    def __call__(self, batch_):
        found = self.pipe(list(batch_["text"]), batch_size=int(batch), truncation=True)
        batch_["prediction"] = [item["label"] for item in found]
        batch_["score"] = [item["score"] for item in found]
        return batch_

ray.init(address="local", num_cpus={cores} + 1, include_dashboard=False, log_to_driver=False)  # one to read with
ray.data.read_parquet(source).map_batches(
    Predictor, compute=ray.data.ActorPoolStrategy(size=int(actors)), num_cpus=int({cores} / int(actors)), batch_size=512
).write_parquet(out)
"""


def write_inputs(args: argparse.Namespace) -> list[str]:
    """Write the folders `few` and `many`, and return the texts of one file."""
    rows = read_table(args.data / args.table).rows
    texts = [str(row["text"]) for row in rows][: args.rows]
    for name, files in (("few", args.few), ("many", args.many)):
        folder = args.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number in range(files):
            start = number * len(texts)
            table = pyarrow.table({"id": list(range(start, start + len(texts))), "text": texts})
            pyarrow.parquet.write_table(table, folder / f"{number:03d}.parquet")
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(folder), args.work / f"{name}.parquet")
    return texts


def seconds(command: list[str], out: Path) -> float:
    """Return the seconds that a command takes; its output is deleted before."""
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True) if out.is_file() else None
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def commands(args: argparse.Namespace, size: str) -> dict[str, tuple[list[str], Path]]:
    """Return command and output of each contestant."""
    out, files = args.work / "out", str(args.work / size)
    rehead = [sys.executable, "-m", "service.cli", "predict", args.model]
    found: dict[str, tuple[list[str], Path]] = {
        "local loop": ([*rehead, f"{files}.parquet", "-o", f"{out}.parquet"], Path(f"{out}.parquet"))
    }
    for actors in sorted({1, CORES}):
        found[f"ray, {actors} actor(s)"] = (
            [*rehead, files, "-o", str(out), "--engine", "ray", "--actors", str(actors)],
            out,
        )
    program = PIPELINE.replace("{cores}", str(CORES))
    for dtype in args.dtypes:
        options = [files, str(out), str(Path("models", args.model).resolve()), str(CORES), dtype, str(args.batch_size)]
        found[f"map_batches(pipeline), {dtype}"] = ([sys.executable, "-c", program, *options], out)
    return found


def measure(args: argparse.Namespace) -> None:
    """Print the rate of each contestant, and its ratio to the local loop."""
    rows = len(write_inputs(args)) * (args.many - args.few)
    taken: dict[str, dict[str, list[float]]] = {name: {"few": [], "many": []} for name in commands(args, "few")}
    for _ in range(args.turns):
        for size in ("few", "many"):
            for name, (command, out) in commands(args, size).items():
                taken[name][size].append(seconds(command, out))
                print(f"{name}, {size}: {taken[name][size][-1]:.1f} s", file=sys.stderr, flush=True)
    rates = {
        name: rows / (statistics.median(times["many"]) - statistics.median(times["few"]))
        for name, times in taken.items()
    }
    for name, rate in rates.items():
        start = statistics.median(taken[name]["few"]) - args.few * rows / (args.many - args.few) / rate
        print(f"{name:30s} {rate:8.0f} rows/s, {rate / rates['local loop']:.2f} of the local loop; start {start:.1f} s")


def train(args: argparse.Namespace) -> None:
    """Print the training rows a second of one process, and of one process for each core."""
    rows = read_table(args.data / "sst2/train.parquet").rows
    for size in ("few", "many"):
        table = [{"text": row["text"], "label": str(row["label"])} for row in rows[: getattr(args, size) * args.rows]]
        write_table(args.work / f"{size}.jsonl", table)
    out = args.work / "model"
    launched = ["torchrun", "--standalone", "--nproc-per-node", str(CORES), "--no-python"]
    plain = [sys.executable, "-m", "service.cli", "finetune"]
    options = ["--base", "topics", "--out", str(out), "--overwrite", "--epochs", "1", "--device", "cpu"]
    options += ["--set", "calibration=none", "--set", "tfidf_baseline=false", "--set", "plots=false"]
    contestants = {
        f"one process, {CORES} threads": (CORES, plain, 32),
        f"torchrun, {CORES} processes, 1 thread": (1, [*launched, *plain], 32 // CORES),
    }
    taken: dict[str, dict[str, list[float]]] = {name: {"few": [], "many": []} for name in contestants}
    for _ in range(args.turns):
        for size in ("few", "many"):
            for name, (threads, command, batch) in contestants.items():
                os.environ["OMP_NUM_THREADS"] = str(threads)
                data = [str(args.work / f"{size}.jsonl"), "--batch-size", str(batch)]
                taken[name][size].append(seconds([*command, *data, *options], out))
                print(f"{name}, {size}: {taken[name][size][-1]:.1f} s", file=sys.stderr, flush=True)
    for name, times in taken.items():
        between = statistics.median(times["many"]) - statistics.median(times["few"])
        print(f"{name:36s} {args.rows * (args.many - args.few) / between:6.0f} rows/s")


def kill(args: argparse.Namespace) -> None:
    """Kill driver or actor of a job at random points, and compare its rows with those of a job that was left alone."""
    write_inputs(args)
    files, whole, out = str(args.work / "many"), args.work / "whole", args.work / "out"
    staging = args.work / ".out.staging"
    rehead = [sys.executable, "-m", "service.cli", "predict", args.model, files, "--engine", "ray", "--actors", "1"]
    took = seconds([*rehead, "-o", str(whole)], whole)
    for folder in (out, staging):
        shutil.rmtree(folder, ignore_errors=True)
    generator, points = random.Random(args.seed), 0
    while points < args.kill:
        driver = subprocess.Popen([*rehead, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        victim, wait = generator.choice(["driver", "actor"]), generator.uniform(0.3, 1.0) * took
        try:
            driver.wait(wait)
        except subprocess.TimeoutExpired:
            points += 1
            killed = _kill(driver, victim)
            done = len(list(staging.glob("part-*")))
            print(f"{points}: {killed} killed after {wait:.0f} s, {done} of {args.many} files finished", flush=True)
        driver.wait()
        if out.exists():
            same = _rows(out) == _rows(whole)
            print(f"the output is {'equal to' if same else 'NOT'} that of the job that was left alone", flush=True)
            shutil.rmtree(out)


def _kill(driver: subprocess.Popen[bytes], victim: str) -> str:
    actors = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if "MapWorker" in " ".join(child.cmdline())
    ]
    if victim == "actor" and actors:
        actors[0].kill()
        return "actor"
    driver.kill()
    return "driver"


def _rows(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = (
        pyarrow.dataset.dataset(sorted(map(str, folder.glob("part-*")))).to_table().to_pylist()
    )
    return rows


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the labeled data")
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and outputs")
    parser.add_argument("--table", default="sst2/train.parquet")
    parser.add_argument("--model", default="sentiment", help="a model that ships")
    parser.add_argument("--rows", type=int, default=5000, help="rows of a file")
    parser.add_argument("--few", type=int, default=2, help="files")
    parser.add_argument("--many", type=int, default=8, help="files")
    parser.add_argument("--dtypes", nargs="*", default=["float32"], help="of the pipeline")
    parser.add_argument("--batch-size", type=int, default=32, help="of the pipeline")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill at N random points instead")
    parser.add_argument("--train", action="store_true", help="measure training instead")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    args.work.mkdir(parents=True, exist_ok=True)
    run = kill if args.kill else train if args.train else measure
    run(args)
    print(json.dumps({name: version(name) for name in ("torch", "transformers", "ray")}))


if __name__ == "__main__":
    main()
