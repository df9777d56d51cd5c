"""Measure which rows are worth a label: `python benchmarks/review.py --data ../shared/data --work DIR`.

A first model chooses rows of a pool by each strategy of `rehead review`, in rounds as the command does; the model that
results is measured on other rows, beside one whose rows were drawn at random. `--start` rows, drawn at random, make the
first model; with 0, rows are chosen by the scores of zero-shot `topics`, and the model is trained on the chosen rows
alone. `--train head` is logistic regression on frozen embeddings of the base, `--train full` fine-tunes it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rehead
from finetune.bases import text_embedder
from finetune.core.tables.files import read_table, write_table
from finetune.evaluation.intervals import wilson
from service.review.strategies import STRATEGIES, Candidates

TABLES = {
    "dbpedia14": "dbpedia14/sample.parquet",
    "stackoverflow_titles": "stackoverflow_titles/all.parquet",
    "banking77": "banking77/train.parquet",
}
RANDOM = "random"
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Quantile of Student's t for the interval of a mean, by the number of seeds."""


class Split(NamedTuple):
    """A pool to choose from and other rows to measure on, with embeddings `[N, H]` and label ids `[N]`."""

    texts: list[str]
    pool: np.ndarray
    vectors: np.ndarray
    targets: np.ndarray
    names: list[str]
    taught: np.ndarray


def split_of(name: str, args: argparse.Namespace) -> Split:
    """Return a table with its embeddings, and the scores of zero-shot `topics` for the rows of the pool."""
    rows = read_table(args.data / TABLES[name]).rows
    order = np.random.default_rng(0).permutation(len(rows))[: args.pool + args.measured].tolist()
    texts = [str(rows[place]["text"]) for place in order]
    labels = [str(rows[place]["label"]) for place in order]
    names = sorted(set(labels))
    embed = text_embedder(args.base)
    vectors = np.concatenate([embed(texts[start : start + 256]) for start in range(0, len(texts), 256)])
    taught = np.full((len(texts), len(names)), 1 / len(names))
    if args.start == 0 or "disagreement" in args.strategies:
        taught[: args.pool] = zero_shot(texts[: args.pool], names, args.teacher)
    return Split(
        texts, np.arange(args.pool), vectors, np.array([names.index(label) for label in labels]), names, taught
    )


def zero_shot(texts: Sequence[str], names: Sequence[str], model: str) -> np.ndarray:
    """Return zero-shot scores `[N, L]` in the order of `names`."""
    scores = np.zeros((len(texts), len(names)))
    for place, answer in enumerate(rehead.ZeroShotClassifier(model)(list(texts), list(names))):
        by_label = dict(zip(answer["labels"], answer["scores"], strict=True))
        scores[place] = [by_label[name] for name in names]
    return scores


def head(split: Split, rows: np.ndarray, args: argparse.Namespace, seed: int) -> np.ndarray:
    """Return scores `[N, L]` of all rows by logistic regression on the embeddings of some."""
    from sklearn.linear_model import LogisticRegression

    vectors = split.vectors - split.vectors[split.pool].mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.zeros((len(split.texts), len(split.names)))
    classes = np.unique(split.targets[rows])
    if len(classes) < 2:
        scores[:, classes] = 1.0
        return scores
    model = LogisticRegression(C=args.c, max_iter=300).fit(vectors[rows], split.targets[rows])
    scores[:, model.classes_] = model.predict_proba(vectors)
    return scores


def full(split: Split, rows: np.ndarray, args: argparse.Namespace, seed: int) -> np.ndarray:
    """Return scores `[N, L]` of all rows by a fine-tuned base."""
    names = sorted({split.names[split.targets[row]] for row in rows.tolist()})
    table, out = args.work / "train.jsonl", args.work / "model"
    table.unlink(missing_ok=True)
    write_table(table, [{"text": split.texts[row], "label": split.names[split.targets[row]]} for row in rows.tolist()])
    settings: dict[str, Any] = {
        "base": args.base,
        "out": str(out),
        "overwrite": True,
        "seed": seed,
        "data": {"train": str(table)},
        "tfidf_baseline": False,
        "plots": False,
        "calibration": "none",
        "error_rows": 0,
        "optim": {"epochs": args.epochs, "batch_size": 16},
    }
    rehead.train(rehead.TrainConfig(**settings), on_event=lambda event: None)
    model = rehead.load(str(out))
    own = model.predict_proba(split.texts)
    scores = np.zeros((len(split.texts), len(split.names)))
    scores[:, [split.names.index(name) for name in model.classes_]] = own
    assert set(model.classes_) <= set(names)
    return scores


TRAINED: dict[str, Callable[..., np.ndarray]] = {"head": head, "full": full}


def accuracy(split: Split, strategy: str, args: argparse.Namespace, seed: int) -> tuple[float, int]:
    """Return the accuracy on the measured rows after choosing, and the number of labels among the rows trained on."""
    train = TRAINED[args.train]
    rows = np.random.default_rng(seed).permutation(split.pool)[: args.start]
    scores = train(split, rows, args, seed) if len(rows) else split.taught
    left = args.chosen
    while left:
        count = min(args.round, left)
        places = np.setdiff1d(split.pool, rows)
        candidates = Candidates(
            places, scores, left, seed + left, lambda part: split.vectors[part], lambda part: split.taught[part]
        )
        rows = np.concatenate([rows, STRATEGIES[strategy](candidates)[:count]])
        left -= count
        if left and args.start + args.chosen - left >= args.fewest:
            scores = train(split, rows, args, seed)
    measured = np.arange(args.pool, len(split.texts))
    predicted = train(split, rows, args, seed)[measured].argmax(axis=1)
    return float((predicted == split.targets[measured]).mean()), len(set(split.targets[rows].tolist()))


def measure(name: str, args: argparse.Namespace) -> None:
    """Print the accuracy of each strategy, and its difference from random rows, over the seeds."""
    begin = time.perf_counter()
    split = split_of(name, args)
    seconds = time.perf_counter() - begin
    print(f"\n{name}: pool of {args.pool:,}, {len(split.names)} labels, measured on {args.measured:,}; {seconds:.0f} s")
    print("| strategy | accuracy | 95% interval | labels seen | minus random | 95% interval | seeds above |")
    print("|---|---|---|---|---|---|---|", flush=True)
    by_chance: list[float] = []
    for strategy in (RANDOM, *(other for other in args.strategies if other != RANDOM)):
        results = [accuracy(split, strategy, args, seed) for seed in args.seeds]
        values = [value for value, _ in results]
        by_chance = by_chance or values
        mean, labels = float(np.mean(values)), float(np.mean([seen for _, seen in results]))
        low, high = wilson(round(mean * args.measured), args.measured)
        gaps = np.array(values) - np.array(by_chance)
        half = T_975.get(len(gaps), 1.96) * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        gap = f"{gaps.mean():+.3f} | {gaps.mean() - half:+.3f} to {gaps.mean() + half:+.3f} | {(gaps > 0).sum()}"
        print(f"| {strategy} | {mean:.3f} | {low:.3f} to {high:.3f} | {labels:.1f} | {gap} |", flush=True)


def main() -> None:
    """Measure each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of tables")
    parser.add_argument("--work", type=Path, required=True, help="a folder for models of --train full")
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--strategies", nargs="+", default=["auto", "margin", "entropy", "disagreement", "clusters"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--start", type=int, default=100, help="random rows of the first model; 0: zero-shot")
    parser.add_argument("--chosen", type=int, default=100, help="rows to choose")
    parser.add_argument("--round", type=int, default=25, help="rows chosen between two trainings")
    parser.add_argument("--fewest", type=int, default=10, help="rows below which no model is trained in between")
    parser.add_argument("--pool", type=int, default=4000)
    parser.add_argument("--measured", type=int, default=2500)
    parser.add_argument("--base", default="topics")
    parser.add_argument("--teacher", default="topics", help="the zero-shot model")
    parser.add_argument("--train", choices=list(TRAINED), default="head")
    parser.add_argument("--c", type=float, default=10.0, help="inverse L2 strength of the head")
    parser.add_argument("--epochs", type=float, default=10.0, help="of --train full")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print(f"{args.train} on {args.base}; {args.start} rows at random, then {args.chosen} in rounds of {args.round}")
    for name in args.tables:
        measure(name, args)


if __name__ == "__main__":
    main()
