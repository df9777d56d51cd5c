"""Thresholds reach what was asked for, and say where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.config.choice import Choice
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.scores import decide, sigmoid
from finetune.evaluation.thresholds import check_thresholds, tuned

pytestmark = pytest.mark.fast
TAGS = LabelSpace("multi_label", ("a", "b"))
TWO = LabelSpace("binary", ("no", "yes"))


def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = sigmoid(rng.normal(size=(rows, 2)) * 2 - 1)
    return scores, (rng.random((rows, 2)) < scores).astype(np.float32)


def test_f1_is_the_best_of_all_thresholds() -> None:
    from sklearn.metrics import f1_score

    scores, targets = drawn(300)
    thresholds, _ = tuned(Choice(name="f1"), TAGS, scores, targets)

    for label in (0, 1):
        reached = f1_score(targets[:, label], scores[:, label] >= thresholds[label])
        tried = [f1_score(targets[:, label], scores[:, label] >= bound) for bound in scores[:, label]]
        assert reached == pytest.approx(max(tried))


def test_a_stated_precision_is_reached_with_the_most_recall() -> None:
    scores, targets = drawn(2000)
    thresholds, notes = tuned(Choice(name="precision", at_least=0.8), TAGS, scores, targets)

    assert notes == ()
    for label in (0, 1):
        held = targets[:, label] > 0.5
        assert held[scores[:, label] >= thresholds[label]].mean() >= 0.8
        lower = np.sort(scores[scores[:, label] < thresholds[label], label])[::-1][:400]
        counts = [(held[scores[:, label] >= bound].sum(), (scores[:, label] >= bound).sum()) for bound in lower]
        assert all(hits < 0.8 * (predicted + 1) for hits, predicted in counts)


def test_a_precision_out_of_reach_takes_the_highest_and_says_so() -> None:
    scores, targets = drawn(400)
    targets[:, 1] = np.arange(400) % 2  # nothing to do with the scores

    thresholds, notes = tuned(Choice(name="precision", at_least=0.99), TAGS, scores, targets)
    assert any(note.startswith("b does not surely reach a precision of 0.99") for note in notes)
    assert (scores[:, 1] >= thresholds[1]).sum() >= 10


def test_a_stated_recall_is_reached_with_the_fewest_predictions() -> None:
    scores, targets = drawn(1000)
    thresholds, _ = tuned(Choice(name="recall", at_least=0.9), TAGS, scores, targets)

    held = targets[:, 0] > 0.5
    inside = np.sort(scores[held, 0])
    missed = (inside < thresholds[0]).sum()
    assert held.sum() - missed >= 0.9 * (held.sum() + 1) > held.sum() - missed - 1


def test_a_recall_of_one_is_not_promised() -> None:
    scores, targets = drawn(200)
    thresholds, notes = tuned(Choice(name="recall", at_least=1), TAGS, scores, targets)

    assert thresholds == (0.0, 0.0) and "cannot be sure of a recall of 1" in notes[0]


def test_a_label_with_few_rows_keeps_its_threshold() -> None:
    scores, targets = drawn(200)
    targets[:, 0] = 0
    targets[:5, 0] = 1

    thresholds, notes = tuned(Choice(name="f1"), TAGS, scores, targets)
    assert thresholds[0] == 0.5 and thresholds[1] != 0.5 and "a: fewer than 10 rows" in notes[0]


def test_of_two_labels_one_threshold_decides() -> None:
    scores, targets = drawn(1000)
    two = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
    ids = targets[:, 0].astype(int)

    thresholds, _ = tuned(Choice(name="precision", at_least=0.85), TWO, two, ids)
    predicted = decide(two, "binary", thresholds)
    assert sum(thresholds) == pytest.approx(1) and thresholds[1] > 0.5
    assert (ids[predicted == 1] == 1).mean() >= 0.85
    assert (predicted != two.argmax(axis=1)).any()

    other, _ = tuned(Choice(name="recall", at_least=0.95, label="no"), TWO, two, ids)
    assert (decide(two, "binary", other)[ids == 0] == 0).mean() >= 0.95


@pytest.mark.parametrize(
    ("choice", "labels", "message"),
    [
        (Choice(name="f2"), TAGS, "choose one of f1, precision, recall"),
        (Choice(name="f1"), LabelSpace("multiclass", ("a", "b", "c")), "the task is multiclass"),
        (Choice(name="precision", at_least=1.5), TAGS, "a proportion above 0"),
        (Choice(name="f1", label="a"), TAGS, "is for two labels"),
        (Choice(name="f1", label="maybe"), TWO, "no label 'maybe'"),
    ],
)
def test_what_does_not_fit_is_refused(choice: Choice, labels: LabelSpace, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_thresholds(choice, labels)


def test_the_config_takes_short_spellings() -> None:
    def rule(value: object) -> Choice | None:
        return TrainConfig.model_validate({"base": "a", "out": "b", "thresholds": value}).thresholds

    assert rule("none") is None
    assert rule("precision=0.8") == rule({"precision": 0.8}) == Choice(name="precision", at_least=0.8)
    assert rule("f1") == Choice(name="f1")
