"""Measure models in many languages: `python benchmarks/languages.py zero-shot --data ../shared/data`.

zero-shot: accuracy on sib200 by language, of each scorer; labels and templates are English, as they are in training.
transfer: a classifier fine-tuned on English rows of sib200 alone, tested on the other languages.
nusax: a classifier fine-tuned on nusax_sentiment/train and tested on its test rows by language, beside TF-IDF.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import rehead
from finetune.core.tables.files import read_table
from service.inference import zero_shot

Z = 1.96
DEVELOPMENT = ("eng_Latn", "deu_Latn", "swh_Latn", "zho_Hans")
"""Languages of sib200 whose rows may be looked at while a model is made."""


def half_width(accuracy: float, rows: int) -> float:
    """Return half the width of the 95% interval of an accuracy, by the normal approximation."""
    return Z * float(np.sqrt(accuracy * (1 - accuracy) / max(rows, 1)))


def by_language(data: Path, rows: int | None, languages: list[str] | None) -> dict[str, list[dict[str, Any]]]:
    """Return the first rows of sib200 of each language; a row number is the same sentence in all of them."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_table(data / "sib200/dev.parquet").rows:
        if languages is None or row["lang"] in languages:
            found[row["lang"]].append(row)
    return {language: sorted(part, key=lambda row: row["row"])[:rows] for language, part in found.items()}


def zero_shot_by_language(args: argparse.Namespace) -> None:
    """Print a row for each language, and the mean."""
    model = rehead.load(args.model)
    if not isinstance(model, rehead.ZeroShotClassifier):
        raise SystemExit(f"{args.model} is no zero-shot model")
    recorded, roles = model.folder.settings.zero_shot, model.folder.labels.nli
    template = args.template or recorded.hypothesis_template
    tables, totals, began, count = by_language(args.data, args.rows, args.languages), [], time.perf_counter(), 0
    print(f"{args.model}, template {template!r}, recorded scorer {recorded.scorer}")
    print("language   rows    nli  embedding   both  95% +-")
    for language, rows in tables.items():
        names = sorted({row["label"] for row in rows})
        targets = np.array([names.index(row["label"]) for row in rows])
        raw = model.engine.raw_scores([row["text"] for row in rows], names, template, "both", recorded.attention)
        accuracies = []
        for scorer in ("nli", "embedding", "both"):
            scores = zero_shot.collapse(
                raw.logits, raw.cosine, roles=roles, scorer=scorer, fusion=recorded.fusion, multi_label=False
            )
            accuracies.append(float(np.mean(scores.argmax(axis=1) == targets)))
        totals.append(accuracies)
        count += len(rows)
        cells = "".join(f"{value:9.3f}" for value in accuracies)
        print(f"{language}  {len(rows):5}{cells}  {half_width(accuracies[-1], len(rows)):.3f}", flush=True)
    means = np.mean(totals, axis=0)
    print("mean      " + " " * 5 + "".join(f"{value:9.3f}" for value in means))
    print(f"lowest of both: {min(row[-1] for row in totals):.3f}; {count / (time.perf_counter() - began):.0f} texts/s")


def transfer(args: argparse.Namespace) -> None:
    """Fine-tune on English rows and print the accuracy on other rows of every language."""
    tables = by_language(args.data, None, None)
    train, test = (
        tables["eng_Latn"][: args.train_rows],
        {name: part[300 : 300 + (args.rows or 500)] for name, part in tables.items()},
    )
    with tempfile.TemporaryDirectory() as folder:
        config = {"base": args.model, "out": f"{folder}/m", "tfidf_baseline": False}
        config |= {"optim": {"epochs": args.epochs, "batch_size": 8}}
        config |= {"data": {"text": "text", "label": "label", "validation_size": 0.2}, "seed": args.seed}
        rehead.train(rehead.TrainConfig(**config), train, progress=False)
        model = rehead.load(f"{folder}/m")
        accuracies = {}
        for language, rows in test.items():
            answers = model([row["text"] for row in rows])
            hits = [answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)]
            accuracies[language] = float(np.mean(hits))
            print(f"{language}  {len(rows):5}  {accuracies[language]:.3f}", flush=True)
    others = [value for language, value in accuracies.items() if language != "eng_Latn"]
    print(f"{args.model}, {len(train)} English rows: other languages {np.mean(others):.3f} (lowest {min(others):.3f})")


def nusax(args: argparse.Namespace) -> None:
    """Fine-tune on twelve languages, and print the accuracy on test rows by language beside TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = (read_table(args.data / f"nusax_sentiment/{name}.parquet").rows for name in ("train", "test"))
    plain = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    plain.fit([row["text"] for row in train], [row["label"] for row in train])
    with tempfile.TemporaryDirectory() as folder:
        config = {"base": args.model, "out": f"{folder}/m", "optim": {"epochs": args.epochs}, "seed": args.seed}
        config |= {"data": {"text": "text", "label": "label"}, "tfidf_baseline": False}
        rehead.train(rehead.TrainConfig(**config), [dict(row) for row in train], progress=False)
        answers = rehead.load(f"{folder}/m")([row["text"] for row in test])
    found: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for row, answer, other in zip(test, answers, plain.predict([row["text"] for row in test]), strict=True):
        found[row["lang"]].append((answer["label"] == row["label"], other == row["label"]))
    found["all"] = [pair for part in list(found.values()) for pair in part]
    for language, pairs in found.items():
        ours, theirs = np.mean(pairs, axis=0)
        print(f"{language}  {len(pairs):5}  {ours:.3f}  TF-IDF {theirs:.3f}  +-{half_width(ours, len(pairs)):.3f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["zero-shot", "transfer", "nusax"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the labeled data")
    parser.add_argument("--model", default="topics-multilingual")
    parser.add_argument("--rows", type=int, help="rows of each language; default: all")
    parser.add_argument("--languages", nargs="+", help=f"FLORES codes; while a model is made: {' '.join(DEVELOPMENT)}")
    parser.add_argument("--template", help="hypothesis template; default: the recorded one")
    parser.add_argument("--train-rows", type=int, default=50)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    {"zero-shot": zero_shot_by_language, "transfer": transfer, "nusax": nusax}[args.what](args)
    from importlib.metadata import version

    print(json.dumps({name: version(name) for name in ("torch", "transformers", "numpy")}))


if __name__ == "__main__":
    main()
