"""The serving side of rehead: a request in, an answer out.

from service import load, ZeroShotClassifier
load("sentiment")(["I loved it."])
ZeroShotClassifier()("The match went to extra time.", ["sports", "business"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.pipelines import Classifier, ZeroShotClassifier, load

__all__ = ["Classifier", "ZeroShotClassifier", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from service import pipelines

        return getattr(pipelines, name)
    raise AttributeError(f"module 'service' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
