"""Reports: plots for each task, the table of errors, a card that the Hub's own library reads."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.config.training import TrainConfig
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import ClassifierSettings
from finetune.core.scores import decide
from finetune.core.task import Task
from finetune.data.load import Splits
from finetune.data.rows import Rows
from finetune.data.tokenizer_report import TokenizerReport
from finetune.evaluation.evaluate import ScoredSplit
from finetune.evaluation.intervals import score
from finetune.reports import plots
from finetune.reports.model_card import model_card
from finetune.reports.report import beaten_by_tfidf, draw, errors


def measured(labels: LabelSpace, values: list[Any], scores: list[list[float]]) -> ScoredSplit:
    rows = Rows([f"text {i}" for i in range(len(values))], None, values, list(range(1, len(values) + 1)), "some.csv")
    given, references = np.array(scores, dtype=float), labels.encode(values)
    predictions = decide(given, labels.task)
    if labels.task == "multi_label":
        predictions, references = predictions.astype(int), references.astype(int)
    scored = score(labels, predictions, references, given, train_targets=references)
    return ScoredSplit(scored, given, rows, [3 + i for i in range(len(values))])


BINARY = LabelSpace("binary", ("no", "yes"))
SEVERAL = LabelSpace("multi_label", ("a", "b"))
NUMBER = LabelSpace("regression", ("score",))


def of_task(task: str) -> tuple[LabelSpace, ScoredSplit]:
    if task == "binary":
        scores = [[0.9, 0.1], [0.2, 0.8], [0.45, 0.55], [0.3, 0.7]]
        return BINARY, measured(BINARY, ["yes", "yes", "no", "yes"], scores)
    if task == "multi_label":
        return SEVERAL, measured(SEVERAL, [["a"], ["a", "b"], []], [[0.9, 0.2], [0.1, 0.6], [0.3, 0.45]])
    return NUMBER, measured(NUMBER, [1.0, 2.0, 5.0], [[1.5], [2.0], [2.0]])


@pytest.mark.parametrize(
    ("task", "own"),
    [
        ("binary", {"confusion_matrix.png", "reliability.png", "precision_recall.png"}),
        ("multi_label", {"reliability.png", "precision_recall.png"}),
        ("regression", {"residuals.png"}),
    ],
)
def test_each_task_has_its_plots(task: str, own: set[str], tmp_path: Path) -> None:
    labels, found = of_task(task)
    drawn = draw(tmp_path, labels, found)
    assert set(drawn) == own | {"length_and_error.png"} == {file.name for file in tmp_path.iterdir()}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())


def test_a_confusion_matrix_of_77_labels_names_every_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    names = tuple(f"a_rather_long_intent_{i:02}" for i in range(77))
    labels = LabelSpace("multiclass", names)
    figures: list[Any] = []
    keep = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **rest: (figures.append(self), keep(self, *args, **rest))
    )
    draw(tmp_path, labels, measured(labels, list(names), np.eye(77).tolist()))
    axes = figures[0].axes[0]
    ticks = axes.get_yticklabels()
    assert [tick.get_text() for tick in ticks] == list(names)
    boxes = [tick.get_window_extent() for tick in ticks]
    assert not any(one.overlaps(following) for one, following in pairwise(boxes))
    assert min(box.height for box in boxes) >= 6, "tall enough to read"


def test_errors_are_the_worst_first_and_then_the_most_uncertain() -> None:
    labels, found = of_task("binary")
    table = errors(labels, found, 2)
    assert [(row["kind"], row["row"]) for row in table] == [
        *(("worst", 1), ("worst", 3)),
        *(("uncertain", 3), ("uncertain", 4)),
    ]
    shown = {key: table[0][key] for key in ("text", "label", "prediction", "score")}
    assert shown == {"text": "text 0", "label": "yes", "prediction": "no", "score": "0.9000"}


def test_errors_of_several_labels_and_of_numbers() -> None:
    labels, found = of_task("multi_label")
    worst = errors(labels, found, 1)[0]  # label a of row 2 was missed by 0.9
    assert (worst["row"], worst["label"], worst["prediction"]) == (2, "a|b", "b")
    labels, found = of_task("regression")
    assert [(row["kind"], row["row"], row["prediction"]) for row in errors(labels, found, 2)] == [
        ("worst", 3, "2"),
        ("worst", 1, "1.5"),
    ]
    assert errors(labels, found, 0) == []


def test_licenses_are_in_the_card_and_their_absence_too(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    labels, found = of_task("binary")
    splits = Splits(found.rows, found.rows, {}, labels, {"rows_read": 4}, [], [])
    settings = ClassifierSettings("binary", "softmax", max_length=64)
    fit = TokenizerReport(0.0, 1.2, 0.1, {"0.5": 9, "1.0": 64}, {"Latin": 1.0}, {"en": 1.0}, ())

    def card(**more: Any) -> Any:
        config = TrainConfig(base="org/base", out=str(tmp_path / "mine"), **more)
        return ModelCard(model_card(config, settings, splits, fit, {"validation": found}, []))

    licensed = card(license="apache-2.0", data={"license": "CC BY 4.0"})
    assert licensed.data.license == "apache-2.0" and "License of the texts: CC BY 4.0." in licensed.text
    assert card().data.license is None and "License of the texts: not stated." in card().text


def test_several_labels_are_decided_at_their_thresholds() -> None:
    labels = SEVERAL
    plain = measured(labels, [["a"], ["b"]], [[0.4, 0.1], [0.2, 0.45]])
    assert [row["prediction"] for row in errors(labels, plain, 2) if row["kind"] == "worst"] == ["", ""]
    assert [row for row in errors(labels, replace(plain, thresholds=[0.3, 0.4]), 2) if row["kind"] == "worst"] == []


@pytest.mark.parametrize("longest", [3, 59, 400, 500, 512])
def test_the_histogram_of_lengths_leaves_out_no_text(longest: int, tmp_path: Path, monkeypatch: Any) -> None:
    from matplotlib.axes import Axes

    drawn = []
    hist = Axes.hist
    monkeypatch.setattr(Axes, "hist", lambda self, *given, **more: drawn.append(hist(self, *given, **more)))
    plots.lengths([1, longest, longest], longest, 0.5, tmp_path / "lengths.png")
    assert drawn[0][0].sum() == 3


@pytest.mark.parametrize("task", ["binary", "multi_label", "regression"])
def test_the_card_carries_its_results_where_the_hub_reads_them(task: Task, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    labels, found = of_task(task)
    config = TrainConfig(base="org/base", out=str(tmp_path / "mine"))
    splits = Splits(found.rows, found.rows, {}, labels, {"rows_read": 4}, [], [])
    settings = ClassifierSettings(task, "softmax", max_length=64)
    fit = TokenizerReport(0.0, 1.2, 0.1, {"0.5": 9, "1.0": 64}, {"Latin": 1.0}, {"en": 1.0}, ("too hard",))
    text = model_card(config, settings, splits, fit, {"validation": found}, ["length_and_error.png"])
    card = ModelCard(text)
    assert card.data.base_model == "org/base"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results or ()}
    headline = {"binary": "accuracy", "multi_label": "micro_f1", "regression": "r2"}[task]
    assert results[headline] == pytest.approx(found.scored.metrics[headline]["value"], abs=1e-4)
    assert "![length and error](report/length_and_error.png)" in text
    assert "Texts are truncated to 64 tokens" in text
    assert "| validation |" in text
    assert "1.20 tokens per word" in text and "Warning: too hard." in text


def test_tf_idf_is_reported_where_it_is_better_and_not_otherwise() -> None:
    labels, found = of_task("binary")
    value = found.scored.metrics["accuracy"]["value"]
    assert beaten_by_tfidf(labels, found.scored) is None
    assert beaten_by_tfidf(labels, replace(found.scored, tfidf={"accuracy": value})) is None
    sentence = beaten_by_tfidf(labels, replace(found.scored, tfidf={"accuracy": value + 0.1}))
    assert sentence is not None and f"accuracy {value + 0.1:.3f}, this model {value:.3f}" in sentence
