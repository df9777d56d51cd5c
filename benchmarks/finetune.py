"""Measures fine-tuning against its peers: `python benchmarks/finetune.py --base BASE --peer-python PYTHON`.

Knows: which rows are trained on and held out, the order of the runs, medians, and when a stated score was first reached.
Does not know: how a contestant trains, or what its clock counts (finetune_peers.py, one process a run).

The rows are drawn once, without texts that repeat or stand in the held-out table; a seed changes the new head, the order
of rows and dropout. BASE is a folder or Hub id of an encoder that sentence-transformers reads too; PYTHON is the
interpreter of an environment with sentence-transformers and setfit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

ROWS_SEED = 0
SPARE = 512
"""Rows beside those trained on, for a contestant that wants a validation split of its own."""
ELSEWHERE = ("cross_encoder", "cross_encoder_bf16", "setfit")
CONTESTANTS = ("run_classification", "informed", "grouped", "cross_encoder", "setfit", "rehead")


def prepare(data: Path, name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write train, spare and dev of one set; gives what a job says of them."""
    tables = {part: pd.read_parquet(data / name / f"{part}.parquet") for part in ("train", "dev")}
    for part, table in tables.items():
        table = table.rename(columns={"labels": "label"}).sample(frac=1, random_state=ROWS_SEED)
        tables[part] = table[~table.text.map(_key).duplicated()]
    train, dev = tables["train"], tables["dev"]
    train = train[~train.text.map(_key).isin(set(dev.text.map(_key)))]
    several = not isinstance(train.label.iloc[0], str)
    held = train.label.map(lambda value: set(value) if several else {value})
    chosen, rest = train[: args.rows], train[args.rows :]
    known = set().union(*held[: args.rows])
    spare = rest[held[args.rows :].map(known.issuperset)][:SPARE]
    for part, table in {"train": chosen, "spare": spare, "dev": dev[: args.dev_rows]}.items():
        table[["text", "label"]].to_parquet(folder / f"{part}.parquet", index=False)
    return {"several": several, "names": sorted(set().union(*held)), "folder": str(folder)}


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def measured(job: dict[str, Any], python: str) -> dict[str, Any]:
    """One run in a process of its own; what went wrong stands under `error`."""
    with tempfile.TemporaryDirectory(dir=job["folder"]) as scratch:
        file, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        file.write_text(json.dumps(job | {"scratch": scratch, "result": str(result)}), encoding="utf-8")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(job["threads"]))
        command = [python, "-P", str(Path(__file__).with_name("finetune_peers.py")), str(file)]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode or not result.exists():
            return {"error": (done.stderr or done.stdout)[-2000:]}
        return dict(json.loads(result.read_text(encoding="utf-8")))


def summary(runs: list[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contestant: medians over the seeds, and the seconds to the stated share of the reference's score."""
    by_name = {name: [run for run in runs if run["contestant"] == name] for name in args.contestants}
    last = [run["curve"][-1]["scores"] for run in by_name.get(args.reference, [])]
    goals = {metric: args.share * median(scores[metric] for scores in last) for metric in (last[0] if last else {})}
    pace = median(run["rows_per_s"] for run in by_name[args.reference]) if last else None
    found = []
    for name, mine in by_name.items():
        if not mine:
            continue
        row: dict[str, Any] = {"contestant": name, "runs": len(mine)}
        row |= {key: median(run[key] for run in mine) for key in ("rows_per_s", "train_s", "total_s")}
        row["times_reference"] = row["rows_per_s"] / pace if pace else None
        row["scores"] = {metric: sorted(run["score"][metric] for run in mine) for metric in mine[0]["score"]}
        for metric, goal in goals.items():
            reached = median(first_at(run["curve"], metric, goal) for run in mine)
            row[f"s_to_{metric}"] = None if reached == float("inf") else reached
            row[f"goal_{metric}"] = goal
        found.append(row)
    return found


def first_at(curve: list[dict[str, Any]], metric: str, goal: float) -> float:
    return next((point["seconds"] for point in curve if point["scores"][metric] >= goal), float("inf"))


def table(name: str, rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The summary as Markdown: scores as median (lowest to highest)."""
    metrics = list(rows[0]["scores"])
    goals = [f"s to {metric} {rows[0][f'goal_{metric}']:.3f}" for metric in metrics if f"goal_{metric}" in rows[0]]
    heads = [name, "rows/s", f"of {args.reference}", "training s", "total s", *metrics, *goals]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        scores = [f"{median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})" for found in row["scores"].values()]
        reached = [row[f"s_to_{metric}"] for metric in metrics if f"s_to_{metric}" in row]
        times = [f"{one:.1f}" if one is not None else "not reached" for one in reached]
        share = f"{row['times_reference']:.2f}" if row["times_reference"] else "-"
        seconds = (f"{row[key]:.1f}" for key in ("train_s", "total_s"))
        lines.append([row["contestant"], f"{row['rows_per_s']:.1f}", share, *seconds, *scores, *times])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Make every run, contestants and seeds in turn; write the JSON after each and print the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the encoder that all start from")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the labelled data")
    parser.add_argument("--sets", nargs="+", default=["sst2", "goemotions"])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), help=f"also {ELSEWHERE[1]}")
    parser.add_argument("--rows", type=int, default=1600, help="training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dev-rows", type=int, default=None, help="held-out rows of the final score; all if not given")
    parser.add_argument("--sample", type=int, default=1000, help="those of them that are scored during the run")
    parser.add_argument("--looks", type=int, default=8, help="how often in a run they are scored")
    parser.add_argument("--reference", default="informed", help="whose final score sets the goal")
    parser.add_argument("--share", type=float, default=0.98, help="share of that score to reach")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for rehead")
    parser.add_argument("--passes", type=float, default=None, help="texts SetFit encodes for each row; the epochs")
    parser.add_argument("--peer-python", default=sys.executable, help=f"interpreter for {', '.join(ELSEWHERE)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON of every run and the summary")
    args = parser.parse_args()
    said = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    report: dict[str, Any] = {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version(), "arguments": said}
    report |= {"versions": {}, "runs": [], "summary": {}}
    with tempfile.TemporaryDirectory() as root:
        for name in args.sets:
            (folder := Path(root) / name).mkdir()
            job = prepare(args.data, name, folder, args) | {"base": args.base, "epochs": args.epochs}
            job |= {key: getattr(args, key) for key in ("looks", "sample", "threads", "overrides")}
            job["passes"] = args.passes or args.epochs
            for seed in args.seeds:
                for contestant in args.contestants:
                    python = args.peer_python if contestant in ELSEWHERE else sys.executable
                    found = measured(job | {"contestant": contestant, "seed": seed}, python)
                    report["versions"][contestant] = found.pop("versions", {})
                    run = {"set": name, "contestant": contestant, "seed": seed} | found
                    report["runs"].append(run)
                    shown = {key: run[key] for key in ("rows_per_s", "train_s", "score", "load_before") if key in run}
                    print(name, contestant, seed, run.get("error") or json.dumps(shown), flush=True)
                    good = [one for one in report["runs"] if one["set"] == name and "error" not in one]
                    report["summary"][name] = summary(good, args)
                    if args.out:
                        args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    for name, rows in report["summary"].items():
        print(f"\n{table(name, rows, args)}" if rows else f"\n{name}: no run ended well")
    print(f"\n# {report['cpu']}, {args.threads} threads; {args.rows} rows, {args.epochs} epochs, seeds {args.seeds}")
    for contestant, found in report["versions"].items():
        print(f"# {contestant}: {', '.join(f'{key} {value}' for key, value in found.items())}")
    sys.exit(any("error" in run for run in report["runs"]))


if __name__ == "__main__":
    main()
