"""Measure `few_shot` against SetFit on few rows of each label: `python benchmarks/few_shot.py --setfit-python PYTHON`.

Draws rows of each label and held-out rows from each set, starts one process per run, and reports accuracy on the
held-out rows and the seconds of training. Both start from the same base and see the same rows; imports and scoring are
not timed, and rehead's seconds include its cross-validation, metrics and files. PYTHON has setfit.

SetFit makes pairs of all rows by default, hours of training for 64 rows of 77 labels; `--iterations 20` is the number
of pairs of each row in its paper, and 0 leaves its default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

FILES = {
    "trec": "trec/train.parquet",
    "banking77": "banking77/train.parquet",
    "snips": "snips/train.parquet",
    "stackoverflow_titles": "stackoverflow_titles/all.parquet",
    "dbpedia14": "dbpedia14/sample.parquet",
    "sst2": "sst2/train.parquet",
    "clinc150": "clinc150/train.parquet",
}
"""Set -> its file below --data. The defaults of `few_shot` were chosen on the first three."""

ROWS_SEED = 0
VERSIONED = ("torch", "transformers", "sentence-transformers", "setfit", "rehead")


def draw(file: Path, each: int, seed: int, test_rows: int) -> dict[str, Any]:
    """Return `each` training rows of each label, by seed, and held-out rows, which are the same for all seeds."""
    import pandas as pd

    table = pd.read_parquet(file)[["text", "label"]]
    table = table[~table.text.map(lambda text: " ".join(text.casefold().split())).duplicated()]
    table = table.sample(frac=1, random_state=ROWS_SEED)
    test, pool = table[:test_rows], table[test_rows:].sample(frac=1, random_state=seed)
    train = pool.groupby("label").head(each)
    return {name: part[["text", "label"]].to_dict("records") for name, part in (("train", train), ("test", test))}


def rehead(job: dict[str, Any]) -> tuple[list[str], float]:
    """Train with rehead; return the answers for the held-out texts, and the seconds of training."""
    import rehead
    from finetune.config import loading

    train = rehead.train  # imported at its first use
    out = f"{job['scratch']}/model"
    options = {"base": job["base"], "out": out, "seed": job["seed"]}
    if job["contestant"] == "rehead":
        options["few_shot__name"] = job["way"]
    config = loading.load(None, job["overrides"], plots=False, tfidf_baseline=False, **options)
    begin = time.perf_counter()
    train(config, job["train"], progress=False)
    seconds = time.perf_counter() - begin
    answers = rehead.load(out)([row["text"] for row in job["test"]])
    return [answer["label"] for answer in answers], seconds


def setfit(job: dict[str, Any]) -> tuple[list[str], float]:
    """Train with SetFit; return the answers for the held-out texts, and the seconds of training."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted({row["label"] for row in job["train"]})
    rows = {"text": [row["text"] for row in job["train"]]}
    rows |= {"label": [names.index(row["label"]) for row in job["train"]]}
    args = TrainingArguments(output_dir=job["scratch"], seed=job["seed"], save_strategy="no", report_to="none")
    if job["iterations"]:
        args.num_iterations = job["iterations"]
    model = SetFitModel.from_pretrained(job["base"], device="cpu")
    begin = time.perf_counter()
    Trainer(model, args, Dataset.from_dict(rows)).train()
    seconds = time.perf_counter() - begin
    answers = model.predict([row["text"] for row in job["test"]], as_numpy=True, show_progress_bar=False)
    return [names[int(answer)] for answer in answers], seconds


CONTESTANTS = {"rehead": rehead, "setfit": setfit, "fine_tuning": rehead}
"""`fine_tuning` is rehead's ordinary one, without `few_shot`."""


def run(file: Path) -> None:
    """Make the run of a job file in this process, and write its result."""
    job = json.loads(file.read_text(encoding="utf-8"))
    contestant, load = CONTESTANTS[job["contestant"]], os.getloadavg()[0]
    answers, seconds = contestant(job)
    correct = [answer == row["label"] for answer, row in zip(answers, job["test"], strict=True)]
    result: dict[str, Any] = {"accuracy": sum(correct) / len(correct), "seconds": seconds, "load_before": load}
    metrics = Path(job["scratch"]) / "model" / "metrics.json"
    if metrics.is_file():
        result["few_shot"] = json.loads(metrics.read_text(encoding="utf-8")).get("few_shot")
    installed = {entry.name: entry.version for entry in metadata.distributions() if entry.name in VERSIONED}
    Path(job["result"]).write_text(json.dumps(result | {"versions": installed}), encoding="utf-8")


def measure(job: dict[str, Any], python: str, threads: int) -> dict[str, Any]:
    """Return the result of one run in a separate process; a failure is described under `error`."""
    with tempfile.TemporaryDirectory() as scratch:
        file, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        file.write_text(json.dumps(job | {"scratch": scratch, "result": str(result)}), encoding="utf-8")
        count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
        command = [python, str(Path(__file__)), "--job", str(file)]
        done = subprocess.run(command, env=os.environ | count, capture_output=True, text=True)
        if done.returncode:
            return {"error": f"exit {done.returncode}: {done.stderr[-2000:]}"}
        return dict(json.loads(result.read_text(encoding="utf-8")))


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row per set and number of rows: median accuracies with the lowest and highest, and seconds."""
    lines = ["| set | rows a label | | accuracy | seconds | times as fast as setfit |", "|---|---|---|---|---|---|"]
    for name, each in dict.fromkeys((run["set"], run["each"]) for run in runs):
        mine = [run for run in runs if (run["set"], run["each"]) == (name, each) and "error" not in run]
        peer = [run["seconds"] for run in mine if run["contestant"] == "setfit"]
        for contestant in dict.fromkeys(run["contestant"] for run in mine):
            own = [run for run in mine if run["contestant"] == contestant]
            scores, seconds = sorted(run["accuracy"] for run in own), median(run["seconds"] for run in own)
            accuracy = f"{median(scores):.3f} ({scores[0]:.3f} to {scores[-1]:.3f})"
            times = f"{median(peer) / seconds:.1f}" if peer else ""
            lines.append(f"| {name} | {each} | {contestant} | {accuracy} | {seconds:.1f} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Run every contestant on every set, size and seed; write the JSON after each run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", default="models/topics", help="a folder that sentence-transformers can read too")
    parser.add_argument("--data", default="../shared/data", help="folder of the labeled data")
    parser.add_argument("--sets", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--each", nargs="+", type=int, default=[8, 64], help="training rows of each label")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--way", default="auto", help="`few_shot` of rehead")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for rehead")
    parser.add_argument("--iterations", type=int, default=20, help="num_iterations of SetFit; 0 for its default")
    parser.add_argument("--setfit-python", default=sys.executable, help="interpreter that has setfit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="JSON of every run")
    args = parser.parse_args()
    if args.job is not None:
        run(args.job)
        return
    base = str(Path(args.base).resolve()) if Path(args.base).exists() else args.base
    job = {"base": base, "way": args.way, "overrides": args.overrides, "iterations": args.iterations}
    runs: list[dict[str, Any]] = []
    for name, each, seed in itertools.product(args.sets, args.each, args.seeds):
        drawn = draw(Path(args.data) / FILES[name], each, seed, args.test_rows)
        for contestant in random.Random(seed).sample(args.contestants, len(args.contestants)):
            python = args.setfit_python if contestant == "setfit" else sys.executable
            result = measure(job | drawn | {"contestant": contestant, "seed": seed}, python, args.threads)
            runs.append({"set": name, "each": each, "seed": seed, "contestant": contestant} | result)
            print(json.dumps(runs[-1]), flush=True)
            if args.out:
                content = {"arguments": {key: str(value) for key, value in vars(args).items()}, "runs": runs}
                Path(args.out).write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(table(runs))
    sys.exit(any("error" in run for run in runs))


if __name__ == "__main__":
    main()
