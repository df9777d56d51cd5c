"""Rows as batches of columns, as Ray Data and Spark pass them: one row out for each row in, whatever is in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest

from finetune.core.tables.files import read_table, write_table
from service.batch.batch_scorer import BatchScorer, RowScorer
from service.batch.score_table import score
from service.batch.scoring_task import ScoringTask
from service.errors import BackendFailed, BadRequest
from service.schema import Answer

TEXTS = ["a good film", "", None, "a bad film", "NA"]


@pytest.fixture(scope="module")
def scorer(tiny_sentiment):
    return BatchScorer(tiny_sentiment, text="text", all_scores=True)


def test_a_batch_has_the_rows_of_the_local_loop(scorer, tiny_sentiment, tmp_path):
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    write_table(tmp_path / "in.jsonl", rows)
    score(tiny_sentiment, tmp_path / "in.jsonl", tmp_path / "out.jsonl", all_scores=True)
    expected = list(read_table(tmp_path / "out.jsonl").rows)
    table = scorer(pyarrow.Table.from_pylist(rows))
    assert table.to_pylist() == expected
    assert [row["error"] is None for row in expected] == [True, False, False, True, True]


@pytest.mark.parametrize("kind", ["arrays", "lists", "arrow", "pandas"])
def test_a_batch_comes_back_as_what_it_was(scorer, kind):
    columns = {"text": np.array(TEXTS, dtype=object), "weight": np.array([1.5, np.nan, 3, 4, 5])}
    batch = {
        "arrays": lambda: columns,
        "lists": lambda: {name: list(values) for name, values in columns.items()},
        "arrow": lambda: pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()}),
        "pandas": lambda: pd.DataFrame(columns, index=[9, 8, 7, 6, 5]),
    }[kind]()
    out = scorer(batch)
    assert type(out) is type(batch)
    names = out.column_names if kind == "arrow" else list(out)
    labels = ["score_negative", "score_positive"]
    assert names[:4] == ["text", "weight", "prediction", "score"] and sorted(names[4:6]) == labels
    assert names[6:] == ["error"]
    if kind == "pandas":
        assert list(out.index) == [9, 8, 7, 6, 5] and np.isnan(out["weight"].iloc[1])
    predictions = out["prediction"].to_pylist() if kind == "arrow" else list(out["prediction"])
    assert [value in ("negative", "positive") for value in predictions] == [True, False, False, True, True]


def test_scores_depend_on_the_batch_by_rounding_only(scorer):
    together = scorer({"text": ["a good film", "a bad film", "a film"]})["score"]
    alone = [scorer({"text": [text]})["score"][0] for text in ("a good film", "a bad film", "a film")]
    assert list(together) == pytest.approx(alone, abs=1e-6)


def test_candidate_labels_and_a_column_of_the_same_name(tiny_topics):
    scorer = BatchScorer(tiny_topics, ["red", "green"], multi_label=True)
    out = scorer({"text": ["a film"], "score": [1], "prediction": ["mine"]})
    assert list(out)[:3] == ["text", "score", "prediction"] and out["prediction"] == ["mine"]
    assert list(out)[3:] == ["predicted_prediction", "error"]
    assert set(out["predicted_prediction"][0]) <= {"red", "green"}


def test_a_zero_shot_model_without_labels_is_refused(tiny_topics):
    with pytest.raises(BadRequest, match="needs labels"):
        BatchScorer(tiny_topics)


def test_a_missing_column_and_a_batch_of_no_columns_are_refused(scorer):
    with pytest.raises(BadRequest, match="no column 'text': it has 'name'|no column 'text'"):
        scorer({"name": ["a"]})
    with pytest.raises(BadRequest, match="a dict of columns"):
        scorer(["a"])


def test_a_row_at_fault_alone_gets_the_error_and_a_model_that_always_fails_ends_the_run():
    task = ScoringTask(("long", "short"), "multiclass", "test")

    def answers(inputs):
        if any("bad" in item.text for item in inputs):
            raise BackendFailed("cannot compute this")
        return [Answer(("long", "short"), (0.75, 0.25), False) for _ in inputs]

    out = RowScorer(answers, task)({"text": [*"abcdefgh", "bad", "i"]})
    assert [error for error in out["error"] if error] == ["cannot compute this"]
    assert list(out["prediction"]) == ["long"] * 8 + [None, "long"]
    with pytest.raises(BackendFailed, match="none of 8 rows"):
        RowScorer(answers, task)({"text": ["bad"] * 8})


def test_the_function_that_the_docs_pass_to_spark(tiny_models, monkeypatch):
    """Spark itself needs a JVM; it calls this function with arrays, and takes a dict with a list for each field."""
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (block,) = (found for found in blocks if "def make_predict_fn" in found)
    monkeypatch.chdir(tiny_models.parent)
    names: dict[str, object] = {}
    exec(block.replace('"sentiment"', repr(str(tiny_models / "sentiment"))), names)
    found = names["make_predict_fn"]()(np.array(TEXTS, dtype=object))
    assert list(found) == ["prediction", "score", "error"] and {len(values) for values in found.values()} == {5}
    assert [error is None for error in found["error"]] == [True, False, False, True, True]
