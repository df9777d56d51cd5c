"""Measures fine-tuning against its peers: `python benchmarks/fine_tuning.py --base BASE --peer-python PYTHON`.

Knows: which rows are trained on and held out, the order of the runs, medians, when a stated score was first reached.
Does not know: how a contestant trains, or what its clock counts (fine_tuning_peers.py, one process a run).

Rows are drawn once, without texts that repeat or are held out; a seed is that of the new head, the order of rows and
dropout. BASE is an encoder that sentence-transformers reads too; PYTHON has sentence-transformers and setfit.
"""

from __future__ import annotations

import argparse
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
"""Seed of the rows; rows for whoever wants a validation split; held-out rows scored during a run; cores used."""

REFERENCE = "informed"
ELSEWHERE = ("cross_encoder", "cross_encoder_bf16", "setfit")
CONTESTANTS = ("run_classification", REFERENCE, "grouped", "cross_encoder", "setfit", "rehead")


def prepare(data: Path, folder: Path, rows: int, dev_rows: int | None) -> dict[str, Any]:
    """Write the train, spare and dev rows of a set; gives what a job says of them."""
    tables = (pd.read_parquet(data / file) for file in ("train.parquet", "dev.parquet"))
    train, dev = (table.rename(columns={"labels": "label"}) for table in tables)
    keys = [table.text.map(lambda text: " ".join(text.casefold().split())) for table in (train, dev)]
    train = train[~keys[0].duplicated() & ~keys[0].isin(set(keys[1]))].sample(frac=1, random_state=ROWS_SEED)
    dev = dev[~keys[1].duplicated()].sample(frac=1, random_state=ROWS_SEED)
    several = not isinstance(train.label.iloc[0], str)
    held = train.label.map(lambda value: set(value) if several else {value})
    spare = train[rows:][held[rows:].map(set().union(*held[:rows]).issuperset)]  # no label that is not trained on
    for part, table in {"train": train[:rows], "spare": spare[:SPARE], "dev": dev[:dev_rows]}.items():
        table[["text", "label"]].to_parquet(folder / f"{part}.parquet", index=False)
    return {"several": several, "names": sorted(set().union(*held)), "folder": str(folder)}


def measured(job: dict[str, Any], python: str) -> dict[str, Any]:
    """One run in a process of its own; what went wrong stands under `error`."""
    with tempfile.TemporaryDirectory(dir=job["folder"]) as scratch:
        file, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        file.write_text(json.dumps(job | {"scratch": scratch, "result": str(result)}), encoding="utf-8")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(THREADS))
        command = [python, "-P", str(Path(__file__).with_name("fine_tuning_peers.py")), str(file)]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode:
            return {"error": f"exit {done.returncode}: {done.stderr[-2000:]}"}
        return dict(json.loads(result.read_text(encoding="utf-8")))


def summary(runs: list[dict[str, Any]], names: list[str], share: float) -> list[dict[str, Any]]:
    """A row a contestant: medians over the seeds, all scores, and the seconds to a share of what REFERENCE scores."""
    by_name = {name: [run for run in runs if run["contestant"] == name] for name in names}
    reference, found = by_name.get(REFERENCE, []), []
    for name, mine in ((name, mine) for name, mine in by_name.items() if mine):
        row = {key: median(run[key] for run in mine) for key in ("rows_per_s", "train_s", "total_s")}
        row |= {metric: sorted(run["score"][metric] for run in mine) for metric in mine[0]["score"]}
        if reference:
            row["times_reference"] = row["rows_per_s"] / median(run["rows_per_s"] for run in reference)
            for metric in mine[0]["score"]:
                goal = share * median(run["curve"][-1]["scores"][metric] for run in reference)
                curves = ([one["seconds"] for one in run["curve"] if one["scores"][metric] >= goal] for run in mine)
                reached = median(min(seconds, default=math.inf) for seconds in curves)
                row[f"s to {metric} {goal:.3f}"] = reached if reached < math.inf else "not reached"
        found.append({"contestant": name, "runs": len(mine)} | row)
    return found


def table(name: str, rows: list[dict[str, Any]]) -> str:
    """The summary as Markdown; of the scores the median, the lowest and the highest."""
    lines = [[name, *list(rows[0])[1:]], ["---"] * len(rows[0])]
    for row in rows:
        lists = {key: one for key, one in row.items() if isinstance(one, list)}
        scores = {key: f"{median(seeds):.3f} ({seeds[0]:.3f} to {seeds[-1]:.3f})" for key, seeds in lists.items()}
        rounded = {key: f"{one:.2f}" for key, one in row.items() if isinstance(one, float)}
        lines.append([str(one) for one in (row | scores | rounded).values()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Make every run, contestants and seeds in turn; write the JSON after each, print the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the encoder that all start from: a folder or Hub id")
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled data")
    parser.add_argument("--sets", nargs="+", default=["sst2", "goemotions"])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), help=f"also {ELSEWHERE[1]}")
    parser.add_argument("--rows", type=int, default=1600, help="training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dev-rows", type=int, help=f"held-out rows; all if not given, and {SAMPLE} during a run")
    parser.add_argument("--looks", type=int, default=8, help="how often in a run they are scored")
    parser.add_argument("--share", type=float, default=0.98, help=f"share of the score of {REFERENCE} to reach")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for rehead")
    parser.add_argument("--passes", type=float, help="texts that SetFit encodes for each row; as many as epochs")
    parser.add_argument("--peer-python", default=sys.executable, help=f"interpreter for {', '.join(ELSEWHERE)}")
    parser.add_argument("--out", help="JSON of every run and the summary")
    args = parser.parse_args()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(": ")[1] for line in info.splitlines() if "model name" in line), platform.processor())
    report: dict[str, Any] = {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}
    report |= {"arguments": vars(args), "versions": {}, "summary": {}, "runs": []}
    for name in args.sets:
        with tempfile.TemporaryDirectory() as folder:
            job = {key: getattr(args, key) for key in ("base", "epochs", "looks", "overrides")}
            job |= {"sample": SAMPLE, "threads": THREADS, "passes": args.passes or args.epochs}
            job |= prepare(Path(args.data) / name, Path(folder), args.rows, args.dev_rows)
            for seed, contestant in ((seed, one) for seed in args.seeds for one in args.contestants):
                job |= {"contestant": contestant, "seed": seed}
                found = measured(job, args.peer_python if contestant in ELSEWHERE else sys.executable)
                report["versions"][contestant] = found.pop("versions", {})
                report["runs"].append({"set": name, "contestant": contestant, "seed": seed} | found)
                shown = {key: found[key] for key in ("rows_per_s", "train_s", "score", "load_before") if key in found}
                print(name, contestant, seed, found.get("error") or json.dumps(shown), flush=True)
                good = [one for one in report["runs"] if one["set"] == name and "error" not in one]
                report["summary"][name] = summary(good, args.contestants, args.share)
                if args.out:
                    Path(args.out).write_text(json.dumps(report, indent=1), encoding="utf-8")
    for name, rows in report["summary"].items():
        print(f"\n{table(name, rows)}" if rows else f"\n{name}: no run ended well")
    print(f"\n# {cpu}, {THREADS} threads; {args.rows} rows, {args.epochs} epochs, seeds {args.seeds}")
    print("\n".join(f"# {contestant}: {versions}" for contestant, versions in report["versions"].items()))
    sys.exit(any("error" in run for run in report["runs"]))


if __name__ == "__main__":
    main()
