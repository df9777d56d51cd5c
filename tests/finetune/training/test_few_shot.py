"""Training on few rows: the ways by themselves, their choice by cross-validation, and settings that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune import train
from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.events import Info
from finetune.prepare import prepare
from finetune.training.few_shot import (
    FEW_SHOT,
    STRENGTH,
    UNSEEN,
    FewRows,
    in_pairs,
    supervised_contrastive,
    write_head,
)
from finetune.training.few_shot_run import FOLDS, _is_behind

KINDS = {"film": "a good film we loved {}", "money": "the bank and its money {}", "space": "a planet in space {}"}
SHORT = {"full": {"passes": 2}, "contrastive": {"passes": 4}, "nli": {"passes": 1, "negatives": 1}, "frozen": {}}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [{"text": text.format(number), "label": label} for number in range(6) for label, text in KINDS.items()]


@pytest.fixture
def few(tiny_topics: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A config of few-shot training on a tiny zero-shot model."""

    def make(few_shot: Any, **more: Any) -> TrainConfig:
        content = {"base": str(tiny_topics), "out": str(tmp_path / "model"), "precision": "float32", "plots": False}
        return loading.build(content | {"few_shot": few_shot} | more)

    return make


@pytest.mark.parametrize("way", FEW_SHOT)
def test_a_way_by_itself_makes_an_ordinary_folder(
    way: str, few: Callable[..., TrainConfig], rows: list[dict[str, Any]]
) -> None:
    from transformers import AutoModelForSequenceClassification

    result = train(few({"name": way, **SHORT[way]}), data=rows, progress=False)
    folder = model_folder.read(result.path, check_hashes=True)
    assert folder.labels.names == ("film", "money", "space") and not folder.is_zero_shot
    assert folder.config["head"]["name"] == "linear" and folder.config["pooling"] == "mean"
    AutoModelForSequenceClassification.from_pretrained(result.path)
    recorded = loading.load(result.path / model_folder.TRAIN_CONFIG)
    assert recorded.few_shot is not None and recorded.few_shot.name == way
    assert recorded.few_shot.options == SHORT[way]
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert f"`few_shot: {way}`" in card and "by a model of the other folds." in card


def test_training_again_from_the_recorded_config_repeats_the_model(
    few: Callable[..., TrainConfig], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    first = train(few({"name": "contrastive", "passes": 4}), data=rows, progress=False)
    config = loading.load(first.path / model_folder.TRAIN_CONFIG).model_copy(update={"out": str(tmp_path / "again")})
    second = train(config, data=rows, progress=False)
    weights = [load_file(result.path / "model.safetensors") for result in (first, second)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_auto_takes_the_best_way_on_held_out_rows(
    few: Callable[..., TrainConfig], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(learner: Any, rows: FewRows) -> None:
        learner.fit_head(rows)
        with torch.no_grad():
            learner.model.head[-1].bias[0] = 1e3

    monkeypatch.setitem(FEW_SHOT, "full", spoiled)
    monkeypatch.delitem(FEW_SHOT, "contrastive")
    monkeypatch.delitem(FEW_SHOT, "nli")
    sentences: list[str] = []
    result = train(
        few("auto"), data=rows, on_event=lambda event: sentences.append(event.text) if isinstance(event, Info) else None
    )
    metrics = json.loads((result.path / "metrics.json").read_text(encoding="utf-8"))
    table = metrics["few_shot"]
    assert table["strategy"] == "frozen" and table["folds"] == FOLDS
    assert list(table["cross_validated"]) == ["frozen", "full"]
    assert table["cross_validated"]["full"]["value"] == pytest.approx(1 / 3)
    best = table["cross_validated"]["frozen"]
    assert best["rows"] == 18 and table["cross_validated"]["full"]["rows"] == 9, "a way far behind has one fold"
    assert best["low"] < best["value"] <= best["high"] and best["seconds"] > 0
    assert metrics["rows"] == len(rows) and metrics["metrics"]["accuracy"]["value"] == best["value"]
    assert sum("few-shot, 2 folds: " in sentence for sentence in sentences) == 2
    assert "few-shot: frozen is best on the held-out rows; it is trained on all 18 rows" in sentences
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert "| full | 0.333 |" in card and "somewhat optimistic" in card


@pytest.mark.parametrize(
    ("lost", "won", "behind"), [(0, 0, False), (1, 0, False), (2, 0, True), (6, 3, False), (7, 3, True), (3, 7, False)]
)
def test_a_way_is_left_out_where_it_is_behind_by_more_than_a_standard_error(lost: int, won: int, behind: bool) -> None:
    of_best = np.array([True] * lost + [False] * won + [True, False] * 3)
    right = np.array([False] * lost + [True] * won + [True, False] * 3)
    assert _is_behind(right, of_best) is behind


def test_a_validation_table_is_not_trained_on(few: Callable[..., TrainConfig], rows: list[dict[str, Any]]) -> None:
    wrong = [{"text": f"a planet in space {number}", "label": "money"} for number in range(10, 14)]
    result = train(few("frozen"), data={"train": rows, "validation": wrong}, progress=False)
    metrics = json.loads((result.path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["rows"] == 4 and metrics["metrics"]["accuracy"]["value"] == 0.0
    assert metrics["few_shot"]["cross_validated"] == {}


def test_many_rows_are_fine_tuned_as_usual(
    few: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr("finetune.training.few_shot_run.MOST_ROWS", 5)
    sentences: list[str] = []
    prepared = prepare(few("auto"), rows, lambda event: sentences.append(getattr(event, "text", "")))
    assert prepared.config.few_shot is None and prepared.config.model.head.name == "stock"
    assert len(prepared.splits.validation) == 2 and not prepared.splits.is_cross_validated
    assert any("6 rows of a label are not few" in sentence for sentence in sentences)
    assert prepare(few("frozen"), rows).config.few_shot is not None


def test_the_base_is_topics_unless_it_is_named() -> None:
    assert TrainConfig(few_shot="auto", out="models/x").base == "topics"  # type: ignore[arg-type, call-arg]
    assert loading.load(out="x", **{"few_shot.name": "nli", "base": "mine"}).base == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"few_shot": "frosen"}, "unknown few_shot 'frosen': did you mean 'frozen'"),
        ({"few_shot": {"name": "full", "pass": 3}}, "has no option 'pass'"),
        ({"few_shot": "auto", "optim": {"epochs": 5}}, "few_shot does not use optim"),
        ({"few_shot": "auto", "model": {"head": "mlp"}}, "linear head on mean pooling"),
        ({"few_shot": "auto", "loss": "focal"}, "few_shot has losses of its own"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    settings: dict[str, Any], message: str, few: Callable[..., TrainConfig], rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(few(**settings), data=rows, progress=False)


def test_labels_and_bases_that_do_not_fit_are_refused(
    few: Callable[..., TrainConfig], rows: list[dict[str, Any]], tiny_base: Path
) -> None:
    with pytest.raises(ConfigError, match="few_shot=nli needs single texts and an entailment model"):
        prepare(few("nli", base=str(tiny_base)), rows)
    several = [{"text": row["text"], "label": [row["label"], "text"]} for row in rows]
    with pytest.raises(ConfigError, match="exactly one label a text"):
        prepare(few("frozen"), several)


def test_the_head_is_the_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    for classes in ([0, 1, 2], [0, 2], [0, 1, 2, 3]):
        targets = np.repeat(classes, 5)
        features = random.normal(size=(len(targets), 6)) + targets[:, None]
        output = nn.Linear(6, 4)
        write_head(output, features.astype(np.float32), FewRows([], [], targets), seed=0)
        center = features.mean(axis=0)
        scaled = (features - center) / np.linalg.norm(features - center, axis=1).mean()
        fitted = LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3, random_state=0).fit(scaled, targets)
        with torch.no_grad():
            logits = output(torch.as_tensor(features, dtype=torch.float32))
        expected = fitted.predict_proba(scaled)
        assert np.allclose(logits[:, classes].softmax(dim=1), expected, atol=1e-3)
        others = [label for label in range(4) if label not in classes]
        assert (logits[:, others] == UNSEEN).all()


def test_a_tiny_table_with_numbers_for_labels_is_trained_on(
    few: Callable[..., TrainConfig],
) -> None:
    rows = [{"text": "a good film", "label": "1"}, {"text": "a bad day", "label": "2"}]
    rows += [{"text": "we loved the match", "label": "1"}]
    for way in FEW_SHOT:
        result = train(few({"name": way, **SHORT[way]}, overwrite=True), data=rows, progress=False)
        assert model_folder.read(result.path).labels.names == ("1", "2")


def test_the_contrastive_loss_is_its_definition() -> None:
    torch.manual_seed(0)
    embeddings, targets = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 2])
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    exponents = (unit @ unit.T / 0.5).exp()
    losses = []
    for row, partner in ((0, 2), (1, 3), (2, 0), (3, 1)):  # row 4 has no partner
        losses.append(-(exponents[row, partner] / (exponents[row].sum() - exponents[row, row])).log())
    assert torch.allclose(supervised_contrastive(embeddings, targets, 0.5), torch.stack(losses).mean())


def test_every_row_of_a_contrastive_batch_has_a_partner() -> None:
    targets = np.array([0] * 5 + [1] * 2 + [2] + [3] * 9)
    batches = in_pairs(targets, 8, seed=0)
    for _ in range(20):
        labels = targets[next(batches)]
        assert set(labels) == {0, 1, 3} and min(np.bincount(labels)[[0, 1, 3]]) >= 2
