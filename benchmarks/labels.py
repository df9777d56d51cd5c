"""Measure labels as people write them: `python benchmarks/labels.py scorers --data ../shared/data`.

scorers: zero-shot accuracy of each scorer on samples of several tables, beside the number of labels and the length of
the texts; and of labels that are identifiers, spelled out and as they are.
windows: a fine-tuned model on long texts, truncated and in windows.
joined: a classifier of dbpedia14 on texts of 1,000 words, most of whose paragraphs have one label, in the same ways.
planted: wrong labels put into tables, and how many of them `rehead label-errors` lists.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

import rehead
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import read_table
from finetune.core.tokenization import TextEncoder
from finetune.core.windows import Window
from finetune.data.rows import Rows
from finetune.evaluation.label_errors import label_errors
from finetune.out_of_fold import out_of_fold_scores
from service.inference import zero_shot
from service.inference.identifiers import spelled_out
from service.schema import TextInput

TABLES = {
    "dbpedia14": "dbpedia14/sample.parquet",
    "stackoverflow_titles": "stackoverflow_titles/all.parquet",
    "banking77": "banking77/train.parquet",
    "snips": "snips/train.parquet",
    "trec": "trec/train.parquet",
}
WRONG = 0.03
WORDS, OWN_SHARE = 1000, 0.6
SCORERS = ("nli", "embedding", "both")


def sample(file: Path, rows: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of a table, drawn without replacement."""
    table = read_table(file).rows
    return random.Random(seed).sample(list(table), min(rows, len(table)))


def scorers(args: argparse.Namespace) -> None:
    """Print the accuracy of each scorer, with labels spelled out and as they are."""
    model = rehead.load(args.model)
    recorded, roles = model.folder.settings.zero_shot, model.folder.labels.nli
    print("| table | labels | tokens | names | nli | embedding | both |\n|---|---|---|---|---|---|---|", flush=True)
    for name in args.tables:
        rows = sample(args.data / TABLES[name], args.rows, args.seed)
        texts = [str(row[args.text]) for row in rows]
        names = sorted({str(row["label"]) for row in read_table(args.data / TABLES[name]).rows})
        targets = np.array([names.index(str(row["label"])) for row in rows])
        tokens = np.median([len(row) for row in model.engine._runner.encoder(texts)])
        spellings = {"as they are": tuple(names)}
        if spelled_out(names) != tuple(names):
            spellings = {"spelled out": spelled_out(names)} | spellings
        for spelling, words in spellings.items():
            raw = model.engine.raw_scores(texts, words, recorded.hypothesis_template, "both", recorded.attention)
            cells = []
            for scorer in SCORERS:
                scores = zero_shot.collapse(
                    raw.logits, raw.cosine, roles=roles, scorer=scorer, fusion=recorded.fusion, multi_label=False
                )
                cells.append(f"{(scores.argmax(axis=1) == targets).mean():.3f}")
            print(f"| {name} | {len(names)} | {tokens:.0f} | {spelling} | {' | '.join(cells)} |", flush=True)


def windows(args: argparse.Namespace) -> None:
    """Print the accuracy on long texts, truncated and in windows whose scores are aggregated in each way."""
    model = rehead.load(args.model)
    encoder = model.engine._runner.encoder
    drawn = sample(args.data / "imdb/train.parquet", 6 * args.rows, args.seed)
    longer = TextEncoder(encoder.prepared, args.longer + 1)
    long = [row for row in drawn if len(longer([str(row[args.text])])[0]) > args.longer][: args.rows]
    inputs = [TextInput(str(row[args.text])) for row in long]
    targets = [str(row["label"]) for row in long]
    print(f"{len(long)} texts of more than {args.longer} tokens; {args.model} reads {encoder.max_length}")
    _print_windows(args, inputs, targets)


def _print_windows(args: argparse.Namespace, inputs: list[TextInput], targets: list[str]) -> None:
    model = rehead.load(args.model)
    encoder = model.engine._runner.encoder
    print("| read | accuracy | seconds |\n|---|---|---|", flush=True)
    special = encoder.prepared.rust.num_special_tokens_to_add(False)
    tokens = min(args.tokens, encoder.max_length - special)
    ways = {"truncated": None}
    ways |= {f"windows of {tokens}, {way}": Window(tokens, tokens // 4, way) for way in ("mean", "max", "first")}
    for name, window in ways.items():
        begin = time.perf_counter()
        answers = model.engine.classify(inputs, window=window)
        seconds = time.perf_counter() - begin
        accuracy = np.mean([answer.best.label == target for answer, target in zip(answers, targets, strict=True)])
        print(f"| {name} | {accuracy:.3f} | {seconds:.0f} |", flush=True)


def planted(args: argparse.Namespace) -> None:
    """Print precision and recall of likely label errors, where 3% of the labels were replaced by others."""
    print("| table | rows | planted | scores | listed | precision | recall |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in args.tables:
        rows = sample(args.data / TABLES[name], args.rows, args.seed)
        chance = random.Random(args.seed)
        given = [str(row["label"]) for row in rows]
        names = tuple(sorted(set(given)))
        places = set(chance.sample(range(len(rows)), round(WRONG * len(rows))))
        for place in places:
            given[place] = chance.choice([other for other in names if other != given[place]])
        texts = [str(row[args.text]) for row in rows]
        table = Rows(texts, None, given, list(range(1, len(rows) + 1)), name)
        labels = LabelSpace("multiclass", names)
        for kind, base in {"TF-IDF": None, f"TF-IDF and {args.model}": args.model}.items():
            scores = out_of_fold_scores(labels, table, base, seed=args.seed)
            listed = {error.place for error in label_errors(labels, scores, given)}
            hits = len(listed & places)
            cells = (len(rows), len(places), kind, len(listed))
            rates = (f"{hits / len(listed):.2f}", f"{hits / len(places):.2f}")
            print(f"| {name} | {' | '.join(map(str, (*cells, *rates)))} |", flush=True)


def joined(args: argparse.Namespace) -> None:
    """Print the accuracy on texts of 1,000 words, joined from paragraphs of dbpedia14 of which most have one label."""
    from distill import SETS, split

    _, rows = split(args.data, SETS["dbpedia14"])  # rows that benchmarks/distill.py does not train on
    chance = random.Random(args.seed)
    by_label: dict[str, list[str]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["text"])
    names = sorted(by_label)
    inputs, targets = [], []
    for number in range(args.rows):
        target = names[number % len(names)]
        paragraphs: list[str] = []
        while sum(len(paragraph.split()) for paragraph in paragraphs) < WORDS:
            own = chance.random() < OWN_SHARE
            label = target if own else chance.choice([name for name in names if name != target])
            paragraphs.append(chance.choice(by_label[label]))
        chance.shuffle(paragraphs)
        inputs.append(TextInput("\n\n".join(paragraphs)))
        targets.append(target)
    print(f"{len(inputs)} texts of {WORDS:,} words, {OWN_SHARE:.0%} of their paragraphs of one label")
    _print_windows(args, inputs, targets)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(MEASUREMENTS))
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of tables")
    parser.add_argument("--model", default="topics", help="a zero-shot model, or for windows a classifier")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), help="tables of scorers")
    parser.add_argument("--rows", type=int, default=300, help="rows of each table")
    parser.add_argument("--text", default="text", help="the column of the texts")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--longer", type=int, default=256, help="tokens that texts of windows exceed")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a window, as far as the model reads them")
    args = parser.parse_args()
    MEASUREMENTS[args.what](args)


MEASUREMENTS = {"scorers": scorers, "windows": windows, "joined": joined, "planted": planted}

if __name__ == "__main__":
    main()
