"""Planted label errors are found, by the scores of models that have not seen the rows."""

from __future__ import annotations

import csv
import json
import random
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from finetune.core.errors import DataError, MissingExtra
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.tables.files import read_table
from finetune.data.rows import Rows
from finetune.evaluation import label_errors as module
from finetune.evaluation.label_errors import LABEL_ERRORS, label_errors, write
from service.commands.label_errors import command

pytest.importorskip("cleanlab")
pytestmark = pytest.mark.fast

WORDS = {
    "refund": ["money", "back", "refund", "return", "paid", "charge"],
    "delivery": ["parcel", "late", "courier", "delivery", "arrive", "address"],
    "account": ["password", "login", "account", "email", "reset", "profile"],
}


def planted(rows, wrong, seed):
    """Return separable rows, some with a wrong label, and the places of those."""
    chance = random.Random(seed)
    names = sorted(WORDS)
    truth = [names[place % len(names)] for place in range(rows)]
    texts = [" ".join(chance.choices(WORDS[name], k=6)) + f" {place}" for place, name in enumerate(truth)]
    places = set(chance.sample(range(rows), wrong))
    labels = [
        chance.choice([name for name in names if name != own]) if place in places else own
        for place, own in enumerate(truth)
    ]
    return texts, labels, truth, places


def test_three_of_a_hundred_planted_errors_are_found_in_a_table(tmp_path):
    texts, labels, truth, places = planted(400, 12, seed=0)
    file, out = tmp_path / "table.csv", tmp_path / "found.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "label"], *zip(texts, labels, strict=True)])
    result = CliRunner().invoke(command, [str(file), "--base", "none", "--json", "-o", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["errors"]
    listed = {row["row"] - 1 for row in found}
    assert len(listed & places) / len(places) >= 0.9  # recall
    assert len(listed & places) / len(listed) >= 0.9  # precision
    assert all(row["suggested"] == truth[row["row"] - 1] for row in found if row["row"] - 1 in places)
    assert [row["score_label"] for row in found] == sorted(row["score_label"] for row in found)
    assert [int(row["row"]) for row in read_table(out).rows] == [row["row"] for row in found]
    as_text = CliRunner().invoke(command, [str(file), "--base", "none"])
    assert f"{len(found)} of 400 rows are likely labeled wrong" in as_text.stdout


def test_the_predictions_of_folds_are_used_as_they_are(tmp_path):
    file = tmp_path / "predictions.csv"
    names = ("a", "b")
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "row", "fold", "text", "label", "prediction", "score", "score_a", "score_b"])
        for place in range(40):
            own = names[place % 2]
            given = names[1 - place % 2] if place == 7 else own
            scores = (0.95, 0.05) if own == "a" else (0.05, 0.95)
            writer.writerow(["t.csv", place + 1, 1, f"text {place}", given, own, 0.95, *scores])
    result = CliRunner().invoke(command, [str(file), "--base", "none", "--json"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["errors"]
    assert (found["row"], found["label"], found["suggested"]) == (8, "a", "b")
    assert found["score_suggested"] == pytest.approx(0.95)


def space_and_scores(rows=40):
    truth = np.arange(rows) % 2
    scores = np.where(truth[:, None] == np.arange(3)[None], 0.9, 0.05)
    values = ["abc"[place] for place in truth]
    values[3] = "a"
    return LabelSpace("multiclass", ("a", "b", "c")), scores, values


def test_a_label_without_a_row_is_no_obstacle_and_may_be_suggested():
    labels, scores, values = space_and_scores()
    (error,) = label_errors(labels, scores, values)
    assert (error.place, error.given, error.suggested) == (3, "a", "b")


def test_the_report_has_a_table_where_there_are_likely_errors(tmp_path):
    labels, scores, values = space_and_scores()
    rows = Rows([f"text {n}" for n in range(40)], None, values, list(range(1, 41)), "t.csv")
    assert write(tmp_path, labels, scores, rows) == f"1 of 40 rows are likely labeled wrong: see {LABEL_ERRORS}"
    (row,) = read_table(tmp_path / LABEL_ERRORS).rows
    assert (row["file"], row["row"], row["label"], row["suggested"], row["text"]) == ("t.csv", "4", "a", "b", "text 3")


def test_soft_labels_have_no_errors(tmp_path):
    soft = SoftLabels(("a", "b"), (0.5, 0.5))
    values = [soft] * 40
    rows = Rows([f"text {number}" for number in range(40)], None, values, list(range(1, 41)), "rows.csv")
    scores = np.tile([0.01, 0.99], (40, 1))
    assert write(tmp_path, LabelSpace("binary", ("a", "b")), scores, rows) is None
    assert not (tmp_path / LABEL_ERRORS).exists()


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_are_refused_by_the_command_and_left_out_of_the_report(tmp_path, task):
    labels = LabelSpace(task, ("a", "b", "c"))
    with pytest.raises(DataError, match=f"task {task}"):
        label_errors(labels, np.zeros((40, 3)), ["a"] * 40)
    assert write(tmp_path, labels, np.zeros((40, 3)), Rows(["x"] * 40, None, ["a"] * 40, [1] * 40, "t")) is None


def test_without_cleanlab_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    labels, scores, values = space_and_scores()
    with pytest.raises(MissingExtra, match=r"pip install 'rehead\[review\]'"):
        label_errors(labels, scores, values)
    rows = Rows(["x"] * 40, None, values, [1] * 40, "t")
    assert "rehead[review]" in str(write(tmp_path, labels, scores, rows))


def test_a_label_with_one_row_gives_no_warning_of_the_library():
    labels = LabelSpace("multiclass", ("a", "b", "rare"))
    values = ["a"] * 20 + ["b"] * 20 + ["rare"]
    scores = np.full((41, 3), 0.05)
    scores[np.arange(41), [0] * 20 + [1] * 20 + [2]] = 0.9
    scores[5] = 0.02, 0.96, 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [error.place for error in label_errors(labels, scores, values)] == [5]
