"""Warnings about a run: whether it learned anything, what helps, and what its scores were measured on."""

from typing import Any

import numpy as np
import pytest

from finetune.config.loading import build
from finetune.config.training import TrainConfig
from finetune.core.labels import LabelSpace
from finetune.core.scores import decide
from finetune.data.rows import Rows
from finetune.evaluation.evaluate import ScoredSplit
from finetune.evaluation.intervals import score
from finetune.reports.run_warnings import Verdict, verdict_of

pytestmark = pytest.mark.fast

BINARY = LabelSpace("binary", ("bad", "good"))
SEVERAL = LabelSpace("multi_label", tuple("abcde"))
NUMBER = LabelSpace("regression", ("score",))


def measured(labels: LabelSpace, values: list[Any], scores: Any, targets: Any) -> ScoredSplit:
    given, references = np.asarray(scores, dtype=float), labels.encode(values)
    predictions = decide(given, labels.task)
    if labels.task == "multi_label":
        predictions, references = predictions.astype(int), references.astype(int)
    rows = Rows([f"text {i}" for i in range(len(values))], None, values, list(range(1, len(values) + 1)), "some.csv")
    found = score(labels, predictions, references, given, train_targets=targets)
    return ScoredSplit(found, given, rows, [3] * len(values))


def config(**settings: Any) -> TrainConfig:
    return build({"base": "b", "out": "o", "optim": {"lr": 5e-5} | settings.pop("optim", {})} | settings)


def verdict(labels: LabelSpace, found: ScoredSplit, targets: Any, *, evaluations: int = 1, **more: Any) -> Verdict:
    settings = more.pop("config", config())
    splits = {"validation": found} | more
    return verdict_of(settings, labels, splits, targets, chosen_by="accuracy", evaluations=evaluations, usual_lr=5e-5)


def of_answers(proportion_right: float, rows: int = 200, proportion_good: float = 0.5) -> tuple[ScoredSplit, Any]:
    """A model that is right on this proportion of the rows of each label."""
    values = ["good" if place < proportion_good * rows else "bad" for place in range(rows)]
    by_label = {name: [i for i, value in enumerate(values) if value == name] for name in ("good", "bad")}
    right = {i for places in by_label.values() for i in places[: round(proportion_right * len(places))]}
    good = [(value == "good") == (i in right) for i, value in enumerate(values)]
    targets = BINARY.encode(values)
    return measured(BINARY, values, [[0.1, 0.9] if one else [0.9, 0.1] for one in good], targets), targets


@pytest.mark.parametrize(
    ("proportion_right", "proportion_good", "untrained"),
    [
        (0.5, 0.5, True),
        (0.53, 0.5, True),  # 106 of 200 where 100 are right by chance
        (0.7, 0.5, False),
        (0.85, 0.9, False),  # below the proportion of the most frequent label, and yet it separates the labels
        (0.5, 0.9, True),
    ],
)
def test_a_model_is_untrained_where_it_does_no_better_than_the_baseline_beyond_chance(
    proportion_right: float, proportion_good: float, untrained: bool
) -> None:
    found, targets = of_answers(proportion_right, proportion_good=proportion_good)
    sentence = verdict(BINARY, found, targets).untrained
    assert bool(sentence) == untrained
    if untrained:
        assert "the model is untrained: on the 200 validation rows it is no better than always answering" in sentence
        assert f"accuracy {proportion_right:.3f}" in sentence


def test_few_rows_are_judged_by_the_metrics_alone() -> None:
    found, targets = of_answers(1.0, rows=6)
    assert verdict(BINARY, found, targets) == Verdict()


def test_a_model_of_rare_labels_that_predicts_none_is_advised_to_weight_them() -> None:
    values: list[Any] = [["a"] if i % 20 == 0 else ["b"] if i % 20 == 1 else [] for i in range(60)]
    targets = SEVERAL.encode(values)
    found = measured(SEVERAL, values, np.full((60, 5), 0.05), targets)
    sentence = verdict(SEVERAL, found, targets).untrained
    assert "than never predicting a label (micro_f1 0.000, baseline 0.000)" in sentence
    assert "--set class_weights=balanced" in sentence
    weighted = config(class_weights="balanced")
    assert "class_weights" not in verdict(SEVERAL, found, targets, config=weighted).untrained


def test_a_number_is_compared_with_the_mean_and_equal_numbers_with_nothing() -> None:
    values = [float(i % 7) for i in range(40)]
    targets = NUMBER.encode(values)
    mean = measured(NUMBER, values, [[3.0]] * 40, targets)
    assert "always answering the mean of the training rows" in verdict(NUMBER, mean, targets).untrained
    near = measured(NUMBER, values, [[value + 0.3] for value in values], targets)
    assert verdict(NUMBER, near, targets) == Verdict()
    same = measured(NUMBER, [3.5] * 40, [[3.4]] * 40, np.full(40, 3.5))
    assert verdict(NUMBER, same, np.full(40, 3.5)) == Verdict()


@pytest.mark.parametrize(
    ("lr", "advice", "never"),
    [(0.1, "lower learning rate (--lr 5e-05", "higher"), (1e-6, "higher learning rate (--lr 5e-05", "lower"),
     (5e-5, "longer (--epochs), or on more rows", "--lr")],
)  # fmt: skip
def test_a_higher_rate_is_never_suggested_to_a_run_that_had_a_high_one(lr: float, advice: str, never: str) -> None:
    from dataclasses import replace

    found, targets = of_answers(0.5)
    settings = config(optim={"lr": lr})
    sentence = verdict(BINARY, found, targets, config=settings).untrained
    assert advice in sentence and never not in sentence
    good, targets = of_answers(0.8)
    beaten = replace(good, scored=replace(good.scored, tfidf={"accuracy": 0.9}))
    sentence = verdict(BINARY, beaten, targets, config=settings).beaten
    assert "TF-IDF with a linear model is better" in sentence and advice in sentence and never not in sentence


def test_scores_of_rows_that_chose_the_checkpoint_are_called_optimistic_and_no_others() -> None:
    found, targets = of_answers(0.8)
    assert verdict(BINARY, found, targets, evaluations=1).chosen == "", "nothing was chosen"
    chosen = verdict(BINARY, found, targets, evaluations=3).chosen
    assert chosen.startswith("the best of 3 checkpoints was chosen on the validation rows (by accuracy), so that their")
    assert "--set data.test.NAME=FILE" in chosen and "rehead evaluate" in chosen
    assert "those of held_out are not" in verdict(BINARY, found, targets, evaluations=3, held_out=found).chosen


def test_warnings_come_before_notes() -> None:
    whole = Verdict("untrained", "beaten", "chosen")
    assert whole.notes == ("untrained", "beaten", "chosen") and whole.warnings == ["untrained", "beaten"]
    assert Verdict().to_json() == {"untrained": None, "beaten": None, "chosen": None}


def test_a_model_of_skewed_numbers_is_judged_by_what_its_loss_lowers() -> None:
    rng = np.random.default_rng(0)
    numbers = np.exp(rng.normal(0, 2, 100))
    guesses = np.minimum(numbers, 2.0)  # right but for the large ones
    learned = measured(NUMBER, numbers.tolist(), guesses[:, None], numbers)
    constant = measured(NUMBER, numbers.tolist(), np.full((100, 1), np.median(numbers)), numbers)
    settings = config(loss="mean_squared_logarithmic_error")
    assert learned.scored.metrics["r2"]["value"] < 0
    assert not verdict(NUMBER, learned, numbers, config=settings).untrained
    assert constant.scored.metrics["msle"]["value"] < constant.scored.baseline["msle"]
    assert verdict(NUMBER, constant, numbers, config=settings).untrained
