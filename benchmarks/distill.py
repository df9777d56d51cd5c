"""Measure `rehead distill`: `python benchmarks/distill.py --data ../shared/data --work DIR --seeds 0 1 2`.

Texts without their labels are distilled, and teacher, refined labels and student are measured on other rows. What
`auto` does was chosen on trec, banking77 and snips; the other sets are only measured. `--speed` compares the student
with that of our one-pass engine and of transformers' zero-shot pipeline, in one interleaved run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import rehead
from finetune.core.tables.files import read_table, write_table
from finetune.data.near_duplicates import find
from finetune.data.rows import Rows


class Set(NamedTuple):
    """A table, the rows that are distilled, those that are measured, and the goal."""

    file: str
    texts: int
    measured: int
    goal: float | None


SETS = {
    "dbpedia14": Set("dbpedia14/sample.parquet", 5000, 2600, 0.93),
    "stackoverflow_titles": Set("stackoverflow_titles/all.parquet", 10_000, 5000, 0.88),
    "banking77": Set("banking77/train.parquet", 7000, 2999, 0.74),
    "snips": Set("snips/train.parquet", 4000, 2000, None),
    "trec": Set("trec/train.parquet", 3700, 1600, None),
    "sib200": Set("sib200/dev.parquet", 500, 300, None),
}
MULTILINGUAL = "topics-multilingual"


def split(data: Path, entry: Set, language: str | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows to distill and the rows to measure on, drawn without overlap."""
    import numpy as np

    table = read_table(data / entry.file).rows
    rows = [{"text": row["text"], "label": row["label"]} for row in table if language in (None, row.get("lang"))]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    first = [rows[place] for place in order[: entry.texts]]
    return first, [rows[place] for place in order[entry.texts : entry.texts + entry.measured]]


def near_duplicates(texts: list[str], measured: list[str]) -> str:
    """Return a sentence about texts that are nearly the same in both parts."""

    def rows(part: list[str]) -> Rows:
        return Rows(part, None, ["x"] * len(part), list(range(1, len(part) + 1)), "rows")

    return str(find({"train": rows(texts), "validation": rows(measured)}))


def measure(name: str, args: argparse.Namespace, language: str | None = None) -> dict[str, float]:
    """Print the accuracies of a set, by seed and on average; return those on average."""
    entry = SETS[name]
    rows, others = split(args.data, entry, language)
    name = name if language is None else f"{name}.{language}"
    args.work.mkdir(parents=True, exist_ok=True)
    validation = args.work / f"{name}.validation.jsonl"
    write_table(validation, others)
    texts = [row["text"] for row in rows]
    labels = sorted({row["label"] for row in rows})
    print(f"{name}: {len(texts):,} texts, {len(labels)} labels; measured on {len(others):,} other rows")
    print(near_duplicates(texts, [row["text"] for row in others]))
    accuracies: dict[str, list[float]] = {"teacher": [], "refined": [], "student": []}
    for seed in args.seeds:
        result = rehead.distill(
            texts,
            labels,
            args.work / name,
            validation=str(validation),
            overwrite=True,
            seed=seed,
            progress=args.verbose,
            refinement=args.refinement,
            base=args.base,
            teacher=args.teacher if language is None else MULTILINGUAL,
            embeddings=args.embeddings,
            priors=args.priors,
        )
        for stage, values in accuracies.items():
            entry_of = result.report.measured.metrics[stage]["accuracy"]
            values.append(entry_of["value"])
            low, high = entry_of["low"], entry_of["high"]
            print(f"  seed {seed} {stage:8s} {entry_of['value']:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    means = {stage: statistics.mean(values) for stage, values in accuracies.items()}
    goal = f"; goal {entry.goal}" if entry.goal is not None else ""
    print(f"{name}: {', '.join(f'{stage} {value:.3f}' for stage, value in means.items())}{goal}", flush=True)
    return means


def measure_languages(args: argparse.Namespace) -> None:
    """Print the accuracies on each language of sib200, and what the student has more than the teacher."""
    languages = args.languages or sorted({row["lang"] for row in read_table(args.data / SETS["sib200"].file).rows})
    means = [measure("sib200", args, language) for language in languages]
    gains = [mean["student"] - mean["teacher"] for mean in means]
    print(f"sib200, {len(languages)} languages: student {statistics.mean(gains):+.3f} on average; goal +0.06")


def speed(args: argparse.Namespace) -> None:
    """Print texts per second on dbpedia14 of the student, our one-pass engine and the stock pipeline."""
    from transformers import pipeline

    rows, _ = split(args.data, SETS["dbpedia14"])
    labels = sorted({row["label"] for row in rows})
    texts = [row["text"] for row in rows]
    student = rehead.load(str(args.work / "dbpedia14"))
    ours = rehead.ZeroShotClassifier("topics")
    from finetune.core.model_folder import find as find_model

    stock = pipeline("zero-shot-classification", str(find_model("topics").path), device="cpu")
    runs: dict[str, tuple[int, Callable[[list[str]], Any]]] = {
        "student": (256, student),
        "one pass": (256, lambda part: ours(part, labels)),
        "pipeline": (16, lambda part: stock(part, labels, batch_size=16)),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.turns + 1):
        for name, (count, call) in runs.items():
            part = [texts[(turn * count + place) % len(texts)] for place in range(count)]
            began = time.perf_counter()
            call(part)
            if turn:
                rates[name].append(count / (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:9s} {value:8.1f} texts/s, student {medians['student'] / value:.1f} times as fast")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labeled data")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models and the teacher's scores")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS)[:3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--languages", nargs="+", help="languages of sib200; default is all")
    parser.add_argument("--refinement", default="auto")
    parser.add_argument("--priors", default="estimated", help="uniform where labels are known to be equally frequent")
    parser.add_argument("--embeddings", nargs="+", default=[], help="models that embed; default is those of distill")
    parser.add_argument("--teacher", default="topics")
    parser.add_argument("--base", default=None)
    parser.add_argument("--speed", action="store_true", help="measure speed, with the student that is in --work")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    if args.speed:
        speed(args)
    else:
        for name in args.sets:
            measure_languages(args) if name == "sib200" else measure(name, args)
    from importlib.metadata import version

    print(json.dumps({name: version(name) for name in ("torch", "transformers", "numpy")}))


if __name__ == "__main__":
    main()
