"""A model of two text columns: trained, evaluated, scored and called with the same join."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rehead
from finetune.core.tables.files import read_table, write_table
from service.errors import BadRequest
from service.server.table_scoring import score_upload


def test_training_evaluation_scoring_and_python_join_the_same_texts(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REHEAD_BACKEND", "torch")
    rows = [{"title": f"good {n}" if n % 2 else "", "body": f"film {n}", "label": "np"[n % 2]} for n in range(40)]
    write_table(tmp_path / "t.csv", rows)
    config = {"base": str(tiny_base), "out": str(tmp_path / "m"), "data": {"text": ["title", "body"]}, "plots": False}
    rehead.train(rehead.TrainConfig(**config, optim={"epochs": 1}), data=rows, progress=False)
    assert json.loads((tmp_path / "m" / "classifier.json").read_text())["text_columns"] == ["title", "body"]

    joined = [f"good {n}\nfilm {n}" if n % 2 else f"film {n}" for n in range(40)]
    classifier = rehead.load(tmp_path / "m")
    expected = classifier(joined)
    assert classifier([{"title": row["title"], "body": row["body"]} for row in rows]) == expected
    result = rehead.score_table(classifier, tmp_path / "t.csv", tmp_path / "o.csv")
    assert result.note == "texts joined of title, body"
    scores = [float(row["score"]) for row in read_table(tmp_path / "o.csv").rows]
    assert scores == pytest.approx([answer["score"] for answer in expected], abs=1e-5)
    alone = rehead.score_table(classifier, tmp_path / "t.csv", tmp_path / "alone.csv", text="title")
    assert (alone.errors, alone.note) == (20, None)

    uploaded = score_upload(
        classifier.engine,
        None,
        tmp_path / "t.csv",
        tmp_path / "page.csv",
        text="body",
        all_scores=False,
        progress=lambda *_: None,
        max_characters=1000,
    )
    assert (uploaded.errors, uploaded.note) == (0, result.note)
    scores = [float(row["score"]) for row in read_table(tmp_path / "page.csv").rows]
    assert scores == pytest.approx([answer["score"] for answer in expected], abs=1e-5)

    whole = rehead.evaluate(tmp_path / "m", str(tmp_path / "t.csv"))
    same = rehead.evaluate(
        tmp_path / "m", [{"text": text, "label": row["label"]} for text, row in zip(joined, rows, strict=True)]
    )
    assert whole["rows"] == 40 and whole["metrics"] == same["metrics"]
    write_table(tmp_path / "part.csv", [{"body": "film", "label": "n"}])
    with pytest.raises(rehead.FinetuneError, match="there is no column 'title'"):
        rehead.score_table(classifier, tmp_path / "part.csv", tmp_path / "p.csv")
    with pytest.raises(BadRequest, match="has no column 'head'"):
        rehead.score_table(classifier, tmp_path / "t.csv", tmp_path / "p.csv", text=["title", "head"])
