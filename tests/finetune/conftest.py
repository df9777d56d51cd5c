"""Small tables for training, and the config that goes with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.loading import build
from finetune.config.training import TrainConfig


def review(index: int) -> dict[str, Any]:
    return {
        "text": f"{'good great loved' if index % 2 else 'bad awful hated'} film {index}",
        "label": ["no", "yes"][index % 2],
    }


@pytest.fixture
def reviews() -> list[dict[str, Any]]:
    return [review(index) for index in range(60)]


@pytest.fixture
def config(tiny_base: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A config for the tiny base, quick to run: no plots are drawn; keyword arguments are laid over it."""

    def make(**more: Any) -> TrainConfig:
        content: dict[str, Any] = {"base": str(tiny_base), "out": str(tmp_path / "model"), "precision": "float32"}
        content["plots"] = False
        content["optim"] = {"epochs": 1, "batch_size": 8, "lr": 5e-3} | more.pop("optim", {})
        return build(content | more)

    return make
