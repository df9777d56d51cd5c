"""Experiment trackers that a run can log to: their names, packages and log folders."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune.core.errors import ConfigError, MissingExtra
from finetune.core.events import Info, Listener

TRACKERS: dict[str, tuple[str, str]] = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
    "azure_ml": ("azureml.core", "azureml-core"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
}
"""Tracker, as transformers names it -> the module that it requires, and the package that contains it."""

TENSORBOARD = "tensorboard"


def require_installed(names: Sequence[str]) -> None:
    """Refuse trackers that a run cannot log to.

    Raises:
        ConfigError: an unknown tracker.
        MissingExtra: a tracker that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            close = difflib.get_close_matches(name, TRACKERS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"report_to: there is no tracker {name!r}. {hint}Choose one of {', '.join(TRACKERS)}")
        module, package = TRACKERS[name]
        if not _is_installed(module):
            raise MissingExtra(f"report_to: {name} is not installed: pip install {package}")


def logs_folder(out: str | Path) -> Path:
    """Return the folder of TensorBoard's logs: TENSORBOARD_LOGGING_DIR, or a folder next to the model `out`."""
    if folder := os.environ.get("TENSORBOARD_LOGGING_DIR"):
        return Path(folder)
    return Path(out).with_name(f"{Path(out).name}.logs")


def callbacks_of(names: Sequence[str], out: str, say: Listener) -> list[Any]:
    """Return the Trainer's callbacks for the trackers whose log folder is chosen here, and report where each tracker
    logs."""
    others = left_to_transformers(names)
    if others:
        say(Info(f"logging to {', '.join(others)}, as configured by its own settings"))
    if TENSORBOARD not in names:
        return []
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    if not os.environ.get("TENSORBOARD_LOGGING_DIR"):
        callback.logging_dir = str(logs_folder(out) / time.strftime("%Y-%m-%d_%H-%M-%S"))
    say(Info(f"logging to {callback.logging_dir}: tensorboard --logdir {logs_folder(out)}"))
    return [callback]


def left_to_transformers(names: Sequence[str]) -> list[str]:
    """Return the trackers that transformers itself starts."""
    return [name for name in names if name != TENSORBOARD]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False
