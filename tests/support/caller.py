"""A program that uses the Python API, type-checked under mypy's strict rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from finetune import TrainConfig, TrainResult, train
from service import Classifier, ZeroShotClassifier, load
from service.estimators import FineTunedClassifier


def best(texts: Iterable[str]) -> list[str]:
    model: Classifier | ZeroShotClassifier = load("sentiment", batch_size=16)
    labels: tuple[str, ...] = model.folder.labels.names
    answers: list[dict[str, Any]] = Classifier("sentiment")(list(texts), top_k=None)
    return [*labels, *(str(answer["label"]) for answer in answers)]


async def topics(text: str) -> Any:
    return await ZeroShotClassifier(scorer="both").aclassify(text, ["sports", "business"], multi_label=True)


def fit(texts: list[str], labels: list[str]) -> TrainResult:
    FineTunedClassifier(base="topics", epochs=1).fit(texts, labels)
    return train(TrainConfig(base="topics", out="models/mine"), data=[{"text": texts[0], "label": labels[0]}])


if __name__ == "__main__":
    print(best(["a text"]), asyncio.run(topics("a text")), fit(["a"], ["b"]).metrics)
