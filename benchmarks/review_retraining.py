"""Measure what a whole review buys: `python benchmarks/review_retraining.py --work DIR --models trec dbpedia14`.

DIR holds students of `benchmarks/distill.py`, each beside the rows it was measured on. A review of half of those rows
is answered with their labels; the given model and each retrained one are measured on the other half.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

import rehead
from finetune.core import model_folder
from finetune.core.tables.files import read_table, write_table
from finetune.evaluation.intervals import wilson
from service.review.retraining import FEWEST
from service.review.review import Given, Retrain, begin, loaded
from service.review.session import Plan
from service.review.table import review_table


def review(name: str, args: argparse.Namespace, seed: int) -> None:
    """Print the accuracy of each model of one review."""
    folder = model_folder.read(args.work / name)
    rows = list({row["text"]: row for row in read_table(args.work / f"{name}.validation.jsonl").rows}.values())
    rows = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows)).tolist()]
    half = len(rows) // 2
    work = args.work / ".review_retraining"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_table(work / "texts.jsonl", [{"text": row["text"]} for row in rows[:half]])
    table = review_table(work / "texts.jsonl")
    labels = {" ".join(row["text"].split()): row["label"] for row in rows[:half]}
    given = Given(name, folder, lambda: loaded(folder, "cpu"), "cpu")
    plan = Plan(args.strategy, args.answers, held_out=0.0, overlap=0.0, seed=seed)
    under_way = begin(table, work / "answers.jsonl", plan, given, Retrain(None, args.every))
    assert under_way.retraining is not None
    show(name, seed, 0, args.work / name, rows[half:])
    for answered in range(1, args.answers + 1):
        question = under_way.session.next("benchmark")
        assert question is not None
        label = labels[" ".join(question.text.split())]
        under_way.session.answer("benchmark", question.row, "label", label, new=True)
        if answered % args.every == 0:
            under_way.retraining.poll()
            under_way.retraining.wait()
            assert not under_way.retraining.problem, under_way.retraining.problem
            show(name, seed, answered, under_way.retraining.model, rows[half:])
    under_way.close()


def show(name: str, seed: int, answered: int, folder: Path, rows: list[dict[str, str]]) -> None:
    """Print the accuracy of a model."""
    model = rehead.load(str(folder))
    assert isinstance(model, rehead.Classifier)
    names = [str(label) for label in model.classes_]
    best = model.predict_proba([row["text"] for row in rows]).argmax(axis=1).tolist()
    right = sum(names[place] == row["label"] for place, row in zip(best, rows, strict=True))
    low, high = wilson(right, len(rows))
    print(f"| {name} | {seed} | {answered} | {right / len(rows):.3f} ({low:.3f} to {high:.3f}) |", flush=True)


def main() -> None:
    """Read the arguments and review each model's rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of students and measured rows")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--every", type=int, default=50, help="answers between two retrainings")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    if args.every < FEWEST or args.answers % args.every:
        parser.error(f"--every is {FEWEST} or more, and divides --answers")
    print("| set | seed | answers | accuracy |\n|---|---|---|---|")
    for name in args.models:
        for seed in args.seeds:
            review(name, args, seed)


if __name__ == "__main__":
    main()
