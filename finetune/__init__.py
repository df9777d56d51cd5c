"""The training side of rehead: a table of labeled texts in, a model folder out.

from finetune import TrainConfig, train
result = train(TrainConfig(base="topics", out="models/reviews", data={"train": "reviews.csv"}))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.core.stripped_docstrings import allow_stripped_docstrings

if TYPE_CHECKING:
    from finetune.config.training import TrainConfig
    from finetune.run import TrainResult, evaluate, train

allow_stripped_docstrings("transformers")

__all__ = ["TrainConfig", "TrainResult", "evaluate", "train"]

_MODULES = {"TrainConfig": "config.training", "TrainResult": "run", "evaluate": "run", "train": "run"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"finetune.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
