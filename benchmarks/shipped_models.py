"""Measure the models that ship: `python benchmarks/shipped_models.py --data ../shared/data`.

Sentiment: accuracy and calibration error on sst2/dev and on the imdb rows held out from training, whose numbers are in
finetune/recipes/sentiment_imdb_rows.json; accuracy on everyday sentences by category, and how many of those without a
judgment get a score above 0.9.
Topics: NLI accuracy under both masks, and zero-shot accuracy under the shared-text mask for each scorer, compared with
the cosine similarity of the untouched base. Rows of the zero-shot sets are drawn with a seed; nothing is tuned on them.
Templates: the spread of accuracy, and of the score of a text's label, over five templates and two spellings of labels.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core.model_folder import find, read, shipped_dir
from finetune.core.tables.files import read_table
from finetune.data.nli_pairs import spelled_out
from finetune.evaluation.metrics import calibration_error
from service.inference import zero_shot
from service.inference.engine import Engine
from service.pipelines import Classifier, ZeroShotClassifier

SEED = 0
RECIPES = Path(__file__).parents[1] / "finetune/recipes"

TEMPLATES = ("about {}", "This text is about {}.", "The topic is {}.", "This example is {}.", "{}")
ZERO_SHOT_SETS = {
    "dbpedia14": ("dbpedia14/sample.parquet", "label"),
    "stackoverflow_titles": ("stackoverflow_titles/all.parquet", "label"),
    "banking77": ("banking77/train.parquet", "label"),
    "trec": ("trec/train.parquet", "label"),
}


def rows_of(file: Path, count: int | None) -> list[dict[str, Any]]:
    """Return all rows of a table, or `count` of them drawn with the seed."""
    rows = read_table(file).rows
    if count is None or count >= len(rows):
        return rows
    return [rows[index] for index in np.random.default_rng(SEED).permutation(len(rows))[:count]]


def sentiment(data: Path) -> dict[str, float]:
    """Return the accuracy of models/sentiment on its two test sets."""
    model = Classifier("sentiment", models_dir=None)
    numbers = set(json.loads((RECIPES / "sentiment_imdb_rows.json").read_text(encoding="utf-8"))["test"])
    imdb = [row for number, row in enumerate(read_table(data / "imdb/train.parquet").rows, 1) if number in numbers]
    figures = {}
    for name, rows in {"sst2/dev": rows_of(data / "sst2/dev.parquet", None), "imdb held out": imdb}.items():
        names = model.folder.labels.names
        scores = model.engine.scores([row["text"] for row in rows])
        targets = np.array([names.index(row["label"]) for row in rows])
        figures[f"sentiment, {name} ({len(rows)} rows)"] = float(np.mean(scores.argmax(axis=1) == targets))
        figures[f"sentiment, {name}: calibration error"] = calibration_error(scores, targets)
    return figures


def everyday() -> dict[str, float]:
    """Return the accuracy of models/sentiment on everyday sentences by category."""
    model = Classifier("sentiment", models_dir=None)
    rows = read_table(Path(__file__).with_name("everyday_sentences.csv")).rows
    answers = model([row["text"] for row in rows])
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        if row["label"] != "neutral":
            for category in (row["category"], "all"):
                hits[category].append(answer["label"] == row["label"])
    figures = {f"everyday sentences, {name} ({len(part)})": float(np.mean(part)) for name, part in hits.items()}
    neutral = [answer["score"] for row, answer in zip(rows, answers, strict=True) if row["label"] == "neutral"]
    figures[f"everyday sentences, neutral ({len(neutral)}): share above 0.9"] = float(np.mean(np.array(neutral) > 0.9))
    return figures


def nli(data: Path, count: int | None) -> dict[str, float]:
    """Return the accuracy of models/topics as an NLI model, under both masks."""
    engine = Engine.load(read(shipped_dir() / "topics"))
    accuracies = {}
    for name, file in {"MNLI-m": "mnli_dev/dev_matched.parquet", "SNLI": "snli_eval/dev.parquet"}.items():
        rows = rows_of(data / file, count)
        names = ("entailment", "neutral", "contradiction")
        targets = [engine.folder.labels.names.index(names[row["label"]]) for row in rows]
        for attention in ("shared_text", "ordinary"):
            inputs = [(row["premise"], row["hypothesis"]) for row in rows]
            scores = engine.scores(
                [premise for premise, _ in inputs], [hypothesis for _, hypothesis in inputs], attention=attention
            )
            accuracies[f"topics, {name} {attention} ({len(rows)} rows)"] = float(
                np.mean(scores.argmax(axis=1) == targets)
            )
    return accuracies


def topics(data: Path, count: int, base: str | None) -> dict[str, float]:
    """Return zero-shot accuracy by scorer under the shared-text mask, and that of the base's own embeddings."""
    model = ZeroShotClassifier("topics", models_dir=None)
    recorded = model.folder.settings.zero_shot
    accuracies: dict[str, float] = {}
    for name, file in {
        "dbpedia14": "dbpedia14/sample.parquet",
        "stackoverflow": "stackoverflow_titles/all.parquet",
    }.items():
        names = {row["label"]: None for row in read_table(data / file).rows}
        words = [spelled_out(label) for label in names]
        rows = rows_of(data / file, count)
        texts = [row["text"] for row in rows]
        targets = np.array([list(names).index(row["label"]) for row in rows])
        hypotheses = [zero_shot.fill(recorded.hypothesis_template, word) for word in words]
        evidence = model.engine.raw_scores(texts, words, recorded.hypothesis_template, "both", "shared_text")
        for scorer in ("nli", "embedding", "both"):
            scores = zero_shot.collapse(
                evidence.logits,
                evidence.cosine,
                roles=model.folder.labels.nli,
                scorer=scorer,
                fusion=recorded.fusion,
                multi_label=False,
            )
            mark = " (recorded)" if scorer == recorded.scorer else ""
            accuracies[f"topics, {name} {scorer}{mark} ({len(rows)} rows)"] = float(
                np.mean(scores.argmax(axis=1) == targets)
            )
        if base is not None:
            accuracies[f"untouched base, {name} cosine ({len(rows)} rows)"] = base_cosine(
                base, texts, hypotheses, targets
            )
    return accuracies


def templates(data: Path, count: int) -> dict[str, float]:
    """Return the spread of zero-shot accuracy and scores of models/topics over templates and spellings of labels."""
    model = ZeroShotClassifier("topics", models_dir=None)
    figures: dict[str, float] = {}
    for name, (file, column) in ZERO_SHOT_SETS.items():
        rows = rows_of(data / file, count)
        labels = sorted({row[column] for row in read_table(data / file).rows})
        targets = np.array([labels.index(row[column]) for row in rows])
        accuracies, scores_of_targets = [], []
        for template in TEMPLATES:
            for spell in (spelled_out, lambda label: spelled_out(label).title()):
                answers = model(
                    [row["text"] for row in rows], [spell(label) for label in labels], hypothesis_template=template
                )
                order = {spell(label): index for index, label in enumerate(labels)}
                scores = np.zeros((len(rows), len(labels)))
                for place, answer in enumerate(answers):
                    for label, score in zip(answer["labels"], answer["scores"], strict=True):
                        scores[place, order[label]] = score
                accuracies.append(float(np.mean(scores.argmax(axis=1) == targets)))
                scores_of_targets.append(scores[np.arange(len(rows)), targets])
        figures[f"{name} ({len(rows)} rows), lowest accuracy"] = min(accuracies)
        figures[f"{name} ({len(rows)} rows), highest accuracy"] = max(accuracies)
        figures[f"{name}: standard deviation of a label's score"] = float(np.std(scores_of_targets, axis=0).mean())
    return figures


def base_cosine(base: str, texts: list[str], hypotheses: list[str], targets: Any) -> float:
    """Return the zero-shot accuracy of the base's mean embeddings."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = find(base).source
    tokenizer, body = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source, dtype="float32").eval()

    def embed(sentences: list[str]) -> Any:
        parts = []
        for start in range(0, len(sentences), 64):
            chunk = sentences[start : start + 64]
            batch = tokenizer(chunk, padding=True, truncation=True, max_length=256, return_tensors="pt")
            with torch.inference_mode():
                states = body(**batch).last_hidden_state * batch["attention_mask"][..., None]
            parts.append(torch.nn.functional.normalize(states.sum(dim=1), dim=-1).numpy())
        return np.concatenate(parts)

    return float(np.mean((embed(texts) @ embed(hypotheses).T).argmax(axis=1) == targets))


def main() -> None:
    """Print every figure as it is measured, then the machine and the versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labeled data")
    parser.add_argument("--rows", type=int, default=2000, help="rows of each zero-shot set")
    parser.add_argument("--nli-rows", type=int, default=None, help="rows of each NLI set; default: all")
    parser.add_argument("--base", help="the untouched base to compare with")
    parser.add_argument("--only", nargs="+", default=["sentiment", "nli", "topics"], help="parts to measure")
    args = parser.parse_args()
    import torch
    import transformers

    began = time.perf_counter()
    parts = {
        "sentiment": lambda: sentiment(args.data),
        "nli": lambda: nli(args.data, args.nli_rows),
        "topics": lambda: topics(args.data, args.rows, args.base),
        "everyday": everyday,
        "templates": lambda: templates(args.data, min(args.rows, 500)),
    }
    for name in args.only:
        for what, value in parts[name]().items():
            print(json.dumps({"what": what, "accuracy": round(value, 4)}), flush=True)
    where = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"# {where}, {versions}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
