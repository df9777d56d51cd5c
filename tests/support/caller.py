"""A user's program for mypy: what the Python interface takes and returns, under mypy's strict rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, assert_type

from finetune import TrainConfig, TrainResult, train
from service import Classifier, ZeroShotClassifier, load
from service.estimators import FineTunedClassifier
from service.pipeline_shapes import LabelScore, ZeroShotResult


def loaded(path: str) -> None:
    assert_type(load("sentiment", batch_size=16), Classifier)
    assert_type(load("topics"), ZeroShotClassifier)
    model = load(path)
    assert_type(model, Classifier | ZeroShotClassifier)
    assert_type(model.folder.labels.names, tuple[str, ...])


def classified(texts: list[str], rows: Iterator[str]) -> list[str]:
    model = Classifier("sentiment")
    assert_type(model("a text"), list[LabelScore])
    assert_type(model("a text", top_k=2), list[LabelScore])
    assert_type(model({"text": "a", "text_pair": "b"}), LabelScore)
    assert_type(model({"text": ["a", "b"]}), dict[str, list[Any]])
    assert_type(model(texts), list[LabelScore])
    assert_type(model(texts, top_k=None, function_to_apply="sigmoid"), list[list[LabelScore]])
    assert_type(model(rows), Iterator[LabelScore])
    return [answer["label"] for answer in model(texts)]


def zero_shot(texts: list[str], rows: Iterator[str]) -> list[float]:
    model = ZeroShotClassifier(scorer="both")
    labels = ["sports", "business"]
    assert_type(model("a text", labels), ZeroShotResult)
    assert_type(model(texts, labels, multi_label=True), list[ZeroShotResult])
    assert_type(model({"text": texts}, labels), dict[str, list[Any]])
    assert_type(model(rows, "sports, business"), Iterator[ZeroShotResult])
    return model("a text", labels)["scores"]


async def topics(text: str) -> list[str]:
    answer = await ZeroShotClassifier().aclassify(text, ["sports", "business"], multi_label=True)
    assert_type(answer, ZeroShotResult)
    assert_type(await Classifier().aclassify([text]), list[LabelScore])
    return answer["labels"]


def fit(texts: list[str], labels: list[str]) -> TrainResult:
    FineTunedClassifier(base="topics", epochs=1).fit(texts, labels)
    return train(TrainConfig(base="topics", out="models/mine"), data=[{"text": texts[0], "label": labels[0]}])


if __name__ == "__main__":
    loaded("models/mine")
    print(classified(["a text"], iter(["a text"])), zero_shot(["a text"], iter(["a text"])))
    print(asyncio.run(topics("a text")), fit(["a"], ["b"]).metrics)
