"""Fine-tune a text classifier on your own labels, classify with no labels at all, and use both as callables.

    >>> import rehead
    >>> classifier = rehead.load("sentiment")
    >>> classifier("I loved every minute.")[0]["label"]
    'positive'
    >>> topics = rehead.ZeroShotClassifier()
    >>> topics("The match went to extra time.", ["sports", "business"])["labels"][0]
    'sports'

`rehead.train(rehead.TrainConfig(base="topics", out="models/reviews"), data=frame)` trains on a pandas DataFrame, and
`rehead.load("models/reviews")` loads what it wrote. `rehead.distill("texts.csv", labels, "models/news")` trains on
texts that nobody has labeled. `rehead.__all__` lists the names, each with its own help. Names are imported on first
use, so `import rehead` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.bases import BaseRanking, rank_bases
    from finetune.config.training import TrainConfig
    from finetune.core.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        FinetuneError,
        MissingExtra,
        ReheadError,
        StorageError,
        TrainingError,
    )
    from finetune.cross_validation import CrossValidation, cross_validate
    from finetune.run import TrainResult, train
    from finetune.tune import SearchResult, search
    from service.batch.batch_scorer import BatchScorer
    from service.batch.score_table import score as score_table
    from service.calibrate import CalibrationResult, calibrate
    from service.errors import BackendFailed, BadRequest, ModelNotFound, ServiceError
    from service.estimators import FineTunedClassifier, FineTunedRegressor, ZeroShotEstimator
    from service.evaluate import evaluate
    from service.inference.profile import ZeroShotProfile
    from service.labeling.distill import DistillResult, distill
    from service.pipelines import Classifier, ZeroShotClassifier, load
    from service.profiling import make_profile

__all__ = [
    "BackendFailed",
    "BadRequest",
    "BaseRanking",
    "BatchScorer",
    "CalibrationResult",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "CrossValidation",
    "DataError",
    "DistillResult",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "FinetuneError",
    "MissingExtra",
    "ModelNotFound",
    "ReheadError",
    "SearchResult",
    "ServiceError",
    "StorageError",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "ZeroShotClassifier",
    "ZeroShotEstimator",
    "ZeroShotProfile",
    "calibrate",
    "cross_validate",
    "distill",
    "evaluate",
    "load",
    "make_profile",
    "rank_bases",
    "score_table",
    "search",
    "train",
]

_MODULES = {
    "finetune.bases": ("BaseRanking", "rank_bases"),
    "finetune.config.training": ("TrainConfig",),
    "finetune.core.errors": (
        *("CheckpointError", "ConfigError", "DataError", "FinetuneError", "MissingExtra"),
        *("ReheadError", "StorageError", "TrainingError"),
    ),
    "finetune.cross_validation": ("CrossValidation", "cross_validate"),
    "finetune.run": ("TrainResult", "train"),
    "finetune.tune": ("SearchResult", "search"),
    "service.batch.batch_scorer": ("BatchScorer",),
    "service.batch.score_table": ("score_table",),
    "service.calibrate": ("CalibrationResult", "calibrate"),
    "service.errors": ("BackendFailed", "BadRequest", "ModelNotFound", "ServiceError"),
    "service.estimators": ("FineTunedClassifier", "FineTunedRegressor", "ZeroShotEstimator"),
    "service.evaluate": ("evaluate",),
    "service.inference.profile": ("ZeroShotProfile",),
    "service.labeling.distill": ("DistillResult", "distill"),
    "service.pipelines": ("Classifier", "ZeroShotClassifier", "load"),
    "service.profiling": ("make_profile",),
}
_RENAMED = {"score_table": "score"}
"""Public name -> its name in the module, where they differ."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rehead")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rehead' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
