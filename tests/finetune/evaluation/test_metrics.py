"""Metrics against figures worked out by hand."""

import math
import warnings
from typing import Any

import numpy as np
import pytest

from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.evaluation import intervals
from finetune.evaluation.intervals import score
from finetune.evaluation.metrics import METRICS, REPORT_OF_TASK, SCORE_METRICS, UNFIT, load_metric
from finetune.evaluation.resampled_metrics import draws_of, resampled

# six rows of three labels: label 0 is found 2 of 3 times, label 1 always, label 2 never
REFERENCES = np.array([0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 0])


def single(name: str) -> float:
    return METRICS[name](PREDICTIONS, REFERENCES)


def test_metrics_of_decisions_are_the_ones_worked_out_by_hand() -> None:
    f1 = [2 * 2 / (3 + 3), 2 * 2 / (3 + 2), 0.0]
    assert single("accuracy") == single("micro_f1") == pytest.approx(4 / 6)
    assert single("balanced_accuracy") == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert single("macro_f1") == pytest.approx(sum(f1) / 3)
    assert single("weighted_f1") == pytest.approx((3 * f1[0] + 2 * f1[1] + f1[2]) / 6)
    # (c s - sum p t) / sqrt((s^2 - sum p^2)(s^2 - sum t^2)) with c 4 right of s 6 rows
    assert single("mcc") == pytest.approx((24 - 15) / math.sqrt((36 - 18) * (36 - 14)))


def test_metrics_of_sets_of_labels_are_the_ones_worked_out_by_hand() -> None:
    predictions, references = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 0], [0, 1], [0, 1]])
    assert METRICS["samples_f1"](predictions, references) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert METRICS["accuracy"](predictions, references) == pytest.approx(1 / 3)  # every label of a row is right
    assert METRICS["micro_f1"](predictions, references) == pytest.approx(2 * 2 / (3 + 3))


def test_metrics_of_numbers_are_the_ones_worked_out_by_hand() -> None:
    predictions, references = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 4.0])
    assert METRICS["mae"](predictions, references) == pytest.approx(4 / 3)
    assert METRICS["mse"](predictions, references) == pytest.approx(8 / 3)
    assert METRICS["msle"](predictions, references) == pytest.approx((math.log(3 / 5) ** 2 + math.log(7 / 5) ** 2) / 3)
    assert METRICS["pearson"](predictions, references) == pytest.approx(6 / math.sqrt(14 * 6))
    assert math.isnan(METRICS["msle"](np.array([-2.0, 1.0]), np.array([1.0, 1.0])))


def test_metrics_of_scores_are_the_ones_worked_out_by_hand() -> None:
    # label 1: of the 2 x 2 (positive, negative) pairs three are in order
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8]])
    references = np.array([0, 0, 1, 1])
    assert SCORE_METRICS["roc_auc"](scores, references) == pytest.approx(3 / 4)
    logs = math.log(0.9) + math.log(0.4) + math.log(0.45) + math.log(0.8)
    assert SCORE_METRICS["log_loss"](scores, references) == pytest.approx(-logs / 4)
    # each confidence (0.9, 0.6, 0.55, 0.8) but the middle two in a bin of its own: |1-0.9|, |0-0.575| x 2, |1-0.8|
    assert SCORE_METRICS["calibration_error"](scores, references) == pytest.approx((0.1 + 2 * 0.575 + 0.2) / 4)
    several = np.array([[1, 0], [0, 0], [1, 0]])
    # label 1 never occurs and is left out; label 0: precision 1 at the first hit, 2/3 at the second
    found = SCORE_METRICS["mean_average_precision"](np.array([[0.9, 0.5], [0.6, 0.1], [0.3, 0.2]]), several)
    assert found == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("task", "references", "scores"),
    [
        ("binary", [0, 1, 1, 0], [[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]]),
        ("binary", [1, 1, 1, 1], [[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]]),
        ("multiclass", [0, 1, 1], [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]]),
        ("multi_label", [[1, 0], [0, 0], [1, 0]], [[0.7, 0.2], [0.3, 0.6], [0.1, 0.8]]),
        ("regression", [1.0, 2.0, 4.0], [[1.5], [2.0], [3.0]]),
    ],
)
def test_every_report_holds_its_metrics_with_interval_and_baseline_and_no_nan(
    task: Any, references: list[Any], scores: list[Any]
) -> None:
    from finetune.core.scores import decide

    given, truth = np.array(scores, dtype=float), np.array(references)
    names = ("number",) if task == "regression" else ("a", "b", "c")[: given.shape[1]]
    predictions = decide(given, task)
    predictions = predictions.astype(int) if task == "multi_label" else predictions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(LabelSpace(task, names), predictions, truth, given, train_targets=truth)
    missing = set(REPORT_OF_TASK[task]) - set(found.metrics)
    assert missing <= {"roc_auc"}, "left out only where one label fills all rows"
    assert ("roc_auc" in missing) == (references == [1, 1, 1, 1])
    for name, entry in found.metrics.items():
        assert entry["low"] <= entry["value"] + 1e-9 and entry["value"] <= entry["high"] + 1e-9, name
        assert math.isfinite(found.baseline[name]), name


def random_rows(task: str, rows: int = 30) -> tuple[LabelSpace, Any, Any, Any]:
    """Labels, predictions, references and scores, with many ties."""
    from finetune.core.scores import decide

    chance = np.random.default_rng(1)
    count = {"binary": 2, "multiclass": 4, "multi_label": 3, "regression": 1}[task]
    labels = LabelSpace(task, tuple("abcd"[:count]))  # type: ignore[arg-type]
    if task == "regression":
        truth = chance.integers(4, 8, rows).astype(float)
        scores = (truth + chance.normal(0, 1, rows))[:, None].round(1)
    elif task == "multi_label":
        scores, truth = chance.random((rows, count)).round(2), (chance.random((rows, count)) < 0.2).astype(int)
    else:
        scores, truth = chance.dirichlet(np.ones(count), rows).round(1) + 0.05, chance.integers(0, count, rows)
        scores /= scores.sum(axis=1, keepdims=True)
    predictions = decide(scores, labels.task)
    return labels, predictions.astype(int) if task == "multi_label" else predictions, truth, scores


@pytest.mark.parametrize("task", REPORT_OF_TASK)
def test_many_resamples_at_once_give_what_each_gives_alone(task: Any) -> None:
    _, predictions, references, scores = random_rows(task)
    draws = next(draws_of(len(references), 40))
    assert (draws.sum(axis=1) == len(references)).all()
    for name in REPORT_OF_TASK[task]:
        at_once = resampled(name, predictions, references, scores)(draws)
        alone = []
        for drawn in draws.astype(int):
            rows = np.repeat(np.arange(len(drawn)), drawn)
            given = (METRICS[name], predictions) if name in METRICS else (SCORE_METRICS[name], scores)
            alone.append(given[0](given[1][rows], references[rows]))
        assert at_once == pytest.approx(alone, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("task", REPORT_OF_TASK)
def test_a_row_of_weight_2_counts_as_two_rows(task: Any) -> None:
    labels, *answers = random_rows(task)
    weights = np.arange(30) % 3 + 1
    twice = [np.repeat(values, weights, axis=0) for values in answers]
    extra = [name for name in (*METRICS, *SCORE_METRICS) if name not in UNFIT[task]]
    # only ratios matter: multiplied by 0.3, the weights are no numbers of rows
    weighted = score(labels, *answers, train_targets=answers[1], weights=weights * 0.3, extra=extra)
    repeated = score(labels, *twice, train_targets=twice[1], extra=extra)
    assert weighted.values() == pytest.approx(repeated.values())
    assert weighted.baseline == pytest.approx(repeated.baseline)
    for label, row in repeated.per_class.items():
        assert weighted.per_class[label]["f1"] == pytest.approx(row["f1"])
        assert (
            weighted.per_class[label]["support"] == (answers[1] == labels.encode([label])).sum()
            or task == "multi_label"
        )
    for name, entry in weighted.metrics.items():
        assert entry["low"] <= entry["value"] <= entry["high"], name
        assert entry["low"] < entry["high"], name


def test_equal_weights_change_nothing() -> None:
    labels, *answers = random_rows("multiclass")
    plain = score(labels, *answers, train_targets=answers[1])
    assert score(labels, *answers, train_targets=answers[1], weights=np.full(30, 0.7)) == plain


def test_a_weighted_perfect_score_is_as_uncertain_as_its_effective_number_of_rows() -> None:
    labels = LabelSpace("binary", ("no", "yes"))
    truth = np.arange(40) % 2
    scores = np.eye(2)[truth]
    weights = np.where(np.arange(40) < 2, 1.0, 1e-9)
    high = score(labels, truth, truth, scores, train_targets=truth, weights=weights).metrics["accuracy"]
    assert high["value"] == 1.0
    assert high["low"] == pytest.approx(intervals.wilson(2, 2)[0], abs=1e-3)


def test_a_metric_that_cannot_be_weighted_is_refused() -> None:
    labels, *answers = random_rows("multiclass")
    with pytest.raises(ConfigError, match="'f1' of evaluate.load cannot be weighted"):
        score(labels, *answers, train_targets=answers[1], weights=np.arange(30) + 1.0, extra=["f1"])


def test_intervals_come_from_a_thousand_resamples_or_more() -> None:
    assert intervals.RESAMPLES >= 1000 and str(intervals.RESAMPLES) in intervals.INTERVALS


def test_a_perfect_score_on_33_rows_has_an_interval() -> None:
    references = np.arange(33) % 2
    scores = np.where(np.eye(2)[references] > 0, 0.9, 0.1)
    labels = LabelSpace("binary", ("a", "b"))
    found = score(labels, references, references, scores, train_targets=references).metrics
    assert found["accuracy"] == pytest.approx({"value": 1, "low": 0.8957, "high": 1}, abs=1e-4)  # Wilson, by hand
    by_label = (17 / (17 + 1.96**2) + 16 / (16 + 1.96**2)) / 2
    assert found["macro_f1"] == pytest.approx({"value": 1, "low": by_label, "high": 1}, abs=1e-4)
    for name, entry in found.items():
        assert entry["high"] - entry["low"] > 0.05, name


@pytest.mark.parametrize("rows", [2, 4, 8, 12, 20])
def test_no_interval_of_few_rows_is_a_single_number(rows: int) -> None:
    references = np.arange(rows) % 2
    labels = LabelSpace("binary", ("a", "b"))
    for predictions in (references, 1 - references, np.zeros_like(references)):
        scores = np.where(np.eye(2)[predictions] > 0, 0.9, 0.1)
        found = score(labels, predictions, references, scores, train_targets=references).metrics
        for name, entry in found.items():
            assert entry["low"] <= entry["value"] <= entry["high"], name
            assert entry["high"] - entry["low"] > 0.01, name


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e9])
def test_intervals_of_numbers_do_not_depend_on_their_scale(scale: float) -> None:
    chance = np.random.default_rng(0)
    references = chance.normal(size=20)
    predictions = references + chance.normal(size=20) / 2
    labels = LabelSpace("regression", ("n",))
    plain, scaled = (
        score(labels, unit * predictions, unit * references, unit * predictions[:, None], train_targets=references)
        for unit in (1.0, scale)
    )
    for name, unit in (("r2", 1.0), ("pearson", 1.0), ("spearman", 1.0), ("mae", scale), ("mse", scale**2)):
        expected = {key: value * unit for key, value in plain.metrics[name].items()}
        assert scaled.metrics[name] == pytest.approx(expected, rel=1e-6), name


def test_a_perfect_fit_of_numbers_has_an_interval_on_the_scale_of_the_baseline() -> None:
    references = np.arange(20.0)
    labels = LabelSpace("regression", ("n",))
    found = score(labels, references, references, references[:, None], train_targets=references)
    unseen = 1.96**2 / (20 + 1.96**2)
    high = unseen * found.baseline["mse"]
    assert found.metrics["mse"] == pytest.approx({"value": 0, "low": 0, "high": high}, abs=1e-3)
    assert found.metrics["spearman"]["low"] == pytest.approx(1 - unseen, abs=1e-4)


def test_a_bias_corrected_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        references = chance.integers(0, 2, 40)
        right = chance.random(40) < 0.8
        predictions = np.where(right, references, 1 - references)
        scores = np.eye(2)[predictions] * 0.8 + 0.1
        found = score(LabelSpace("binary", ("a", "b")), predictions, references, scores, train_targets=references)
        entry = found.metrics["macro_f1"]
        held += entry["low"] <= 0.8 <= entry["high"]
    assert held >= 90


def test_the_paired_difference_of_a_model_from_itself_is_nothing_and_of_another_is_not() -> None:
    _, predictions, references, scores = random_rows("binary", 40)
    same = intervals.difference("accuracy", (predictions, scores), (predictions, scores), references)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    perfect = (references, np.eye(2)[references])
    found = intervals.difference("accuracy", (predictions, scores), perfect, references)
    assert found is not None and 0 < found["low"] < found["value"] < found["high"]
    assert found["value"] == pytest.approx(1 - METRICS["accuracy"](predictions, references))


@pytest.mark.parametrize("name", SCORE_METRICS)
def test_score_metrics_are_evaluate_modules_too(name: str) -> None:
    scores, references = [[0.9, 0.1], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8]], [0, 0, 1, 1]
    found = load_metric(name, "binary").compute(predictions=scores, references=references)
    assert found == {name: pytest.approx(SCORE_METRICS[name](np.array(scores), np.array(references)))}
