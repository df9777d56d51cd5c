"""Write the training, validation and test tables of models/sentiment.

`python -m finetune.recipes.sentiment_rows DATA OUT`

Columns of each table: text, negative, positive (soft labels), weight, source. Film and product reviews keep their
labels. Reddit comments of GoEmotions take the grouping of emotions by its authors, where all emotions of a comment are
of one group. A text without a judgment is half negative and half positive: the model has no third label, and is not to
be sure of either. Such texts are comments labeled neutral, commands to assistants (SNIPS, CLINC150) and captions (SNLI
premises).

sentiment_everyday.csv holds sentences written for this purpose, about products, support, travel, work and so on, by
authors who had not seen benchmarks/everyday_sentences.csv. sentiment_imdb_rows.json holds the numbers of the IMDb rows,
from 1, that are validated and tested on: the same 2,000 that the first release held out, whose weights training starts
from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

POSITIVE = (
    *("admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love", "optimism"),
    *("pride", "relief"),
)
NEGATIVE = (
    *(
        "anger",
        "annoyance",
        "disappointment",
        "disapproval",
        "disgust",
        "embarrassment",
        "fear",
        "grief",
        "nervousness",
    ),
    *("remorse", "sadness"),
)
"""The groups of emotions of Demszky et al. (2020), figure 2, without the ambiguous ones."""

HERE = Path(__file__).parent
SCORES = {"negative": 0.0, "neutral": 0.5, "positive": 1.0}
SEED = 42
WEIGHTS = {"everyday": 3.0, "nusax": 2.0}
"""Weight of the rows of a source in the loss, where it is not 1: these are few."""


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sst2", default=40_000, show_default=True, help="SST-2 phrases and sentences to train on.")
@click.option("--imdb", default=3_000, show_default=True, help="IMDb reviews to train on.")
def main(data: Path, out: Path, sst2: int, imdb: int) -> None:
    """Write train.parquet, validation.parquet, sst2_dev.parquet and imdb_test.parquet into OUT."""
    reviews = pd.read_parquet(data / "imdb/train.parquet")
    numbers = json.loads((HERE / "sentiment_imdb_rows.json").read_text(encoding="utf-8"))
    held_out = {name: reviews.iloc[[number - 1 for number in part]] for name, part in numbers.items()}
    others = reviews.drop(index=[index for part in held_out.values() for index in part.index])
    own = pd.read_csv(HERE / "sentiment_everyday.csv", keep_default_na=False).sample(frac=1, random_state=SEED)
    train = [
        _labeled(pd.read_parquet(data / "sst2/train.parquet").sample(sst2, random_state=SEED), "sst2"),
        _labeled(others.sample(imdb, random_state=SEED), "imdb"),
        _labeled(pd.read_parquet(data / "uci_sentences/all.parquet"), "uci"),
        _labeled(_english(data / "nusax_sentiment/train.parquet"), "nusax"),
        _emotions(data / "goemotions/train.parquet").groupby("positive").sample(5000, random_state=SEED),
        _neutral(pd.read_parquet(data / "snips/train.parquet").text, 1200, "snips"),
        _neutral(_in_scope(data / "clinc150/train.parquet"), 1200, "clinc150"),
        _neutral(_captions(data / "nli_mix/train.parquet"), 1200, "snli"),
        _labeled(own[200:], "everyday"),
    ]
    validation = [
        _labeled(held_out["validation"], "imdb"),
        _emotions(data / "goemotions/dev.parquet").groupby("positive").sample(300, random_state=SEED),
        _labeled(_english(data / "nusax_sentiment/valid.parquet"), "nusax"),
        _labeled(own[:200], "everyday"),
    ]
    out.mkdir(parents=True, exist_ok=True)
    tables = {"train": train, "validation": validation, "imdb_test": [_labeled(held_out["test"], "imdb")]}
    tables["sst2_dev"] = [_labeled(pd.read_parquet(data / "sst2/dev.parquet"), "sst2")]
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True)
        table.to_parquet(out / f"{name}.parquet")
        click.echo(f"{name}: {len(table):,} rows, {table.source.value_counts().to_dict()}")


def _table(texts: Sequence[Any], positive: Sequence[float], source: str) -> pd.DataFrame:
    table = pd.DataFrame({"text": list(texts), "positive": list(positive)}).assign(source=source)
    table = table.assign(negative=1 - table.positive, weight=WEIGHTS.get(source, 1.0))
    return table[["text", "negative", "positive", "weight", "source"]]


def _labeled(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    return _table(rows.text, rows.label.map(SCORES), source)


def _neutral(texts: pd.Series, count: int, source: str) -> pd.DataFrame:
    return _table(texts.drop_duplicates().sample(count, random_state=SEED), [SCORES["neutral"]] * count, source)


def _english(table: Path) -> pd.DataFrame:
    rows = pd.read_parquet(table)
    return rows[rows.lang == "english"]


def _emotions(table: Path) -> pd.DataFrame:
    """Return comments whose emotions are all positive, all negative, or neutral alone."""
    rows = pd.read_parquet(table)
    groups = {**dict.fromkeys(POSITIVE, 1.0), **dict.fromkeys(NEGATIVE, 0.0), "neutral": 0.5}
    scores = rows["labels"].map(lambda names: {groups.get(name) for name in names})
    certain = scores.map(lambda groups_of_row: len(groups_of_row) == 1 and None not in groups_of_row)
    return _table(
        rows.text[certain], scores[certain].map(lambda groups_of_row: next(iter(groups_of_row))), "goemotions"
    )


def _in_scope(table: Path) -> pd.Series:
    rows = pd.read_parquet(table)
    return rows.text[rows.label != "oos"]


def _captions(table: Path) -> pd.Series:
    rows = pd.read_parquet(table)
    return rows.premise[rows.source.str.startswith("snli")]


if __name__ == "__main__":
    main()
