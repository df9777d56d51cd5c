"""Measure fine-tuning against its peers: `python benchmarks/fine_tuning.py --base BASE --peer-python PYTHON`.

Draws the training and held-out rows, starts one process per run (fine_tuning_peers.py), and reports medians and the
time to a given score.

Rows are drawn once, without duplicates and without held-out texts; a seed sets the new head, the order of rows and
dropout. BASE is an encoder that sentence-transformers can read; PYTHON has sentence-transformers and setfit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

ROWS_SEED, SPARE, SAMPLE, THREADS = 0, 512, 1000, 2
"""Seed of the rows; rows of the validation split; held-out rows scored during a run; cores used."""

REFERENCE = "informed"
ELSEWHERE = ("cross_encoder", "cross_encoder_bf16", "setfit")
CONTESTANTS = ("run_classification", REFERENCE, "grouped", "cross_encoder", "setfit", "rehead")


def prepare(data: Path, folder: Path, rows: int, dev_rows: int | None) -> dict[str, Any]:
    """Write the train, spare and dev rows of a set; return their description for a job."""
    tables = (pd.read_parquet(data / file) for file in ("train.parquet", "dev.parquet"))
    train, dev = (table.rename(columns={"labels": "label"}) for table in tables)
    keys = [table.text.map(lambda text: " ".join(text.casefold().split())) for table in (train, dev)]
    train = train[~keys[0].duplicated() & ~keys[0].isin(set(keys[1]))].sample(frac=1, random_state=ROWS_SEED)
    dev = dev[~keys[1].duplicated()].sample(frac=1, random_state=ROWS_SEED)
    several = not isinstance(train.label.iloc[0], str)
    held = train.label.map(lambda value: set(value) if several else {value})
    spare = train[rows:][held[rows:].map(set().union(*held[:rows]).issuperset)]  # only labels that are trained on
    for part, table in {"train": train[:rows], "spare": spare[:SPARE], "dev": dev[:dev_rows]}.items():
        table[["text", "label"]].to_parquet(folder / f"{part}.parquet", index=False)
    return {"several": several, "names": sorted(set().union(*held)), "folder": str(folder)}


def measure(job: dict[str, Any], python: str) -> dict[str, Any]:
    """Return the result of one run in a separate process; a failure is described under `error`."""
    with tempfile.TemporaryDirectory(dir=job["folder"]) as scratch:
        file, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        file.write_text(json.dumps(job | {"scratch": scratch, "result": str(result)}), encoding="utf-8")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(THREADS))
        command = [python, "-P", str(Path(__file__).with_name("fine_tuning_peers.py")), str(file)]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode:
            return {"error": f"exit {done.returncode}: {done.stderr[-2000:]}"}
        return dict(json.loads(result.read_text(encoding="utf-8")))


def summary(runs: list[dict[str, Any]], names: list[str], fraction: float) -> list[dict[str, Any]]:
    """Return a row per contestant: medians over the seeds, all scores, seconds to a fraction of REFERENCE's score."""
    by_name = {name: [run for run in runs if run["contestant"] == name] for name in names}
    reference, summaries = by_name.get(REFERENCE, []), []
    for name, mine in ((name, mine) for name, mine in by_name.items() if mine):
        row = {key: median(run[key] for run in mine) for key in ("rows_per_s", "train_s", "total_s")}
        row |= {metric: sorted(run["score"][metric] for run in mine) for metric in mine[0]["score"]}
        if reference:
            row["times_reference"] = row["rows_per_s"] / median(run["rows_per_s"] for run in reference)
            for metric in mine[0]["score"]:
                goal = fraction * median(run["curve"][-1]["scores"][metric] for run in reference)
                curves = (
                    [point["seconds"] for point in run["curve"] if point["scores"][metric] >= goal] for run in mine
                )
                reached = median(min(seconds, default=math.inf) for seconds in curves)
                row[f"s to {metric} {goal:.3f}"] = reached if reached < math.inf else "not reached"
        summaries.append({"contestant": name, "runs": len(mine)} | row)
    return summaries


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the summary as Markdown, with the median, lowest and highest score."""
    lines = [[name, *list(rows[0])[1:]], ["---"] * len(rows[0])]
    for row in rows:
        lists = {key: value for key, value in row.items() if isinstance(value, list)}
        scores = {key: f"{median(seeds):.3f} ({seeds[0]:.3f} to {seeds[-1]:.3f})" for key, seeds in lists.items()}
        rounded = {key: f"{value:.2f}" for key, value in row.items() if isinstance(value, float)}
        lines.append([str(value) for value in (row | scores | rounded).values()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run every contestant with every seed; write the JSON after each run and print the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="encoder that all runs start from: a folder or Hub id")
    parser.add_argument("--data", default="../shared/data", help="folder of the labeled data")
    parser.add_argument("--sets", nargs="+", default=["sst2", "goemotions"])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), help=f"also {ELSEWHERE[1]}")
    parser.add_argument("--rows", type=int, default=1600, help="training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dev-rows", type=int, help=f"held-out rows; default: all, and {SAMPLE} during a run")
    parser.add_argument("--evaluations", type=int, default=8, help="how often a run scores the held-out rows")
    parser.add_argument("--goal", type=float, default=0.98, help=f"fraction of the score of {REFERENCE} to reach")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for rehead")
    parser.add_argument(
        "--float32", action="store_true", help="train informed and grouped in float32: where it is faster"
    )
    parser.add_argument("--passes", type=float, help="texts that SetFit encodes per row; default: the epochs")
    parser.add_argument("--peer-python", default=sys.executable, help=f"interpreter for {', '.join(ELSEWHERE)}")
    parser.add_argument("--out", help="JSON of every run and the summary")
    args = parser.parse_args()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(": ")[1] for line in info.splitlines() if "model name" in line), platform.processor())
    report: dict[str, Any] = {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}
    report |= {"arguments": vars(args), "versions": {}, "summary": {}, "runs": []}
    for name in args.sets:
        with tempfile.TemporaryDirectory() as folder:
            job = {key: getattr(args, key) for key in ("base", "epochs", "evaluations", "overrides", "float32")}
            job |= {"sample": SAMPLE, "threads": THREADS, "passes": args.passes or args.epochs}
            job |= prepare(Path(args.data) / name, Path(folder), args.rows, args.dev_rows)
            for seed, contestant in itertools.product(args.seeds, args.contestants):
                job |= {"contestant": contestant, "seed": seed}
                result = measure(job, args.peer_python if contestant in ELSEWHERE else sys.executable)
                report["versions"][contestant] = result.pop("versions", {})
                report["runs"].append({"set": name, "contestant": contestant, "seed": seed} | result)
                shown = {key: result[key] for key in ("rows_per_s", "train_s", "score", "load_before") if key in result}
                print(name, contestant, seed, result.get("error") or json.dumps(shown), flush=True)
                good = [run for run in report["runs"] if run["set"] == name and "error" not in run]
                report["summary"][name] = summary(good, args.contestants, args.goal)
                if args.out:
                    Path(args.out).write_text(json.dumps(report, indent=1), encoding="utf-8")
    for name, rows in report["summary"].items():
        print(f"\n{table(name, rows)}" if rows else f"\n{name}: every run failed")
    print(f"\n# {cpu}, {THREADS} threads; {args.rows} rows, {args.epochs} epochs, seeds {args.seeds}")
    print("\n".join(f"# {contestant}: {versions}" for contestant, versions in report["versions"].items()))
    sys.exit(any("error" in run for run in report["runs"]))


if __name__ == "__main__":
    main()
