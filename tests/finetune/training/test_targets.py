"""Soft labels and class weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.config.data import DataConfig
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError, DataError
from finetune.core.labels import LabelSpace, SoftLabels
from finetune.core.tables.files import write_table
from finetune.data.load import load_splits
from finetune.prepare import prepare
from finetune.run import train

Make = Callable[..., TrainConfig]


def shared(index: int) -> dict[str, float]:
    return {"yes": 0.9, "no": 0.1} if index % 2 else {"yes": 0.2, "no": 0.8}


def forms(reviews: list[dict[str, Any]]) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """The same distributions as a dict, as JSON, as a list in the order of names, and as a column for each label."""
    texts = [row["text"] for row in reviews]
    rows = range(len(texts))
    return {
        "dict": ([{"text": texts[i], "label": shared(i)} for i in rows], {}),
        "json": ([{"text": texts[i], "label": json.dumps(shared(i))} for i in rows], {}),
        "list": (
            [{"text": texts[i], "label": [shared(i)["no"], shared(i)["yes"]]} for i in rows],
            {"label_names": ("no", "yes"), "task": "binary"},
        ),
        "columns": ([{"text": texts[i]} | shared(i) for i in rows], {"soft_label_columns": ("yes", "no")}),
    }


@pytest.mark.parametrize("form", ["dict", "json", "list", "columns"])
def test_a_distribution_may_be_written_in_four_ways(reviews: Any, tmp_path: Path, form: str) -> None:
    rows, settings = forms(reviews)[form]
    if form in ("json", "columns"):
        write_table(tmp_path / "t.csv", rows)
        found = load_splits(DataConfig(train=(str(tmp_path / "t.csv"),), **settings), seed=0)
    else:
        found = load_splits(DataConfig(**settings), seed=0, data=rows)
    assert (found.labels.task, found.labels.names) == ("binary", ("no", "yes"))
    targets = found.labels.targets(found.train.values)
    odd = np.array([number % 2 == 0 for number in found.train.numbers])
    assert targets.shape == (54, 2) and targets[odd] == pytest.approx(np.tile([0.1, 0.9], (odd.sum(), 1)))
    assert found.labels.encode(found.train.values).tolist() == odd.astype(int).tolist()


def test_soft_labels_train_a_model_that_is_as_unsure_as_they_are(config: Make, reviews: Any) -> None:
    import service

    many = [{"text": f"{row['text']} {turn}"} for turn in range(8) for row in reviews]
    rows, _ = forms(many)["dict"]
    # one epoch: otherwise the first checkpoint without errors would be kept, however confident it is
    wanted = config(loss="kullback_leibler_divergence", optim={"epochs": 1}, tfidf_baseline=False)
    result = train(wanted, rows)
    assert result.metrics["accuracy"] == 1.0
    scores = [
        answer["score"] for answer in service.load(result.path)(["good great loved film", "bad awful hated film"])
    ]
    assert scores == pytest.approx([0.9, 0.8], abs=0.07)
    assert prepare(config(), rows).config.loss.name == "categorical_crossentropy"  # type: ignore[union-attr]


def test_settings_that_exclude_soft_labels_are_refused(config: Make, reviews: Any) -> None:
    rows, _ = forms(reviews)["dict"]
    with pytest.raises(ConfigError, match="with soft labels: choose one of categorical_cross"):
        prepare(config(loss="sparse_categorical_crossentropy"), rows)
    rows[4]["label"] = {"yes": -1, "no": 0.5}
    with pytest.raises(DataError, match=r"row 5.*not a distribution over labels.*\"positive\": 0.7"):
        prepare(config(), rows)


def test_numbers_below_zero_are_refused_by_a_loss_of_logarithms(config: Make, reviews: Any) -> None:
    rows = [{"text": row["text"], "label": float(index % 2) + 0.5} for index, row in enumerate(reviews)]
    wanted = config(loss="mean_squared_logarithmic_error", optim={"epochs": 8}, tfidf_baseline=False)
    result = train(wanted, rows)
    assert json.loads((result.path / "classifier.json").read_text())["activation"] == "softplus"
    assert result.metrics["r2"] > 0.9
    rows[7]["label"] = -0.25
    with pytest.raises(DataError, match=r"row 8: the number -0.25 is below 0, which loss 'mean_squared_log"):
        for seed in range(9):  # the row may fall to validation
            prepare(config(loss="mean_squared_logarithmic_error", seed=seed), rows)


def test_weights_are_counted_on_training_rows_only_and_by_name() -> None:
    space = LabelSpace("multiclass", ("a", "b", "c"))
    targets = np.array([0] * 6 + [1] * 3)
    assert space.weights("none", targets) is None
    assert space.weights("balanced", targets) == pytest.approx([9 / 18, 9 / 9, 9 / 3])
    assert space.weights({"b": 4.0}, targets) == pytest.approx([1, 4, 1])
    several = LabelSpace("multi_label", ("a", "b"))
    assert several.weights("balanced", np.array([[1, 0]] * 3 + [[0, 1]])) == pytest.approx([1 / 3, 3])
    with pytest.raises(ConfigError, match="there is no label 'd' \\(labels: a, b, c\\)"):
        space.weights({"d": 1.0}, targets)
    with pytest.raises(ConfigError, match="needs labels, and the task is regression"):
        LabelSpace("regression", ("score",)).weights("balanced", np.zeros(3))


def test_weights_find_a_rare_label(config: Make, reviews: Any) -> None:
    rows = [
        {"text": f"{row['text']} {index}", "label": "rare" if index % 10 == 0 else "usual"}
        for index, row in enumerate(reviews * 8)
    ]

    def recall(**more: Any) -> float:
        wanted = config(optim={"epochs": 1}, overwrite=True, tfidf_baseline=False, **more)
        folder = train(wanted, rows).path
        return float(json.loads((folder / "metrics.json").read_text())["per_class"]["rare"]["recall"])

    assert recall() == 0.0 < recall(class_weights="balanced")


def test_soft_labels_are_one_value() -> None:
    one, other = SoftLabels(("a", "b"), (0.5, 0.5)), SoftLabels(("a", "b"), (0.4, 0.6))
    assert (one.likeliest, str(other)) == ("a", "b") and len({one, other, SoftLabels(("a", "b"), (0.5, 0.5))}) == 2
