"""The student of a distillation: its training settings, and its scores in the order of the run's labels."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.disk_space import GO_ON
from finetune.core.errors import ConfigError
from finetune.core.events import Finished, Listener, Saved, Warned
from finetune.core.scores import Floats
from finetune.run import TrainResult, train
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.labeling.config import DistillConfig
from service.labeling.teacher import Teacher
from service.settings import RuntimeSettings

TABLE = "train.parquet"
DEFAULT_BASE = "topics"
BATCH = 32
UPDATES = 250
FEWEST_EPOCHS, MOST_EPOCHS = 4, 10
TAKEN = ("out", "base", "data.train", "data.text", "data.label", "data.soft_label_columns", "data.label_columns")
"""Settings of the student that the run itself makes."""

DEFAULTS: dict[str, Any] = {
    "tfidf_baseline": False,
    "calibration": "none",
    "data.validation_size": 0.1,
    "error_rows": 0,
}
"""Settings in place of those of `rehead finetune`: validation labels come from no person here, so that errors on them
and the TF-IDF of them would say little, and a calibration on them would fit the teacher's scores."""


def base_of(config: DistillConfig, teacher: Teacher) -> str:
    """Return the encoder that the student starts from."""
    return config.base or teacher.base or DEFAULT_BASE


def epochs_of(rows: int) -> float:
    """Return the passes over so many rows that make about `UPDATES` updates, within bounds."""
    return float(min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(UPDATES * BATCH / rows))))


def student_config(config: DistillConfig, base: str, column: str = "text", rows: int = 1) -> TrainConfig:
    """Return the settings of the student's training, which reads its table from the working folder.

    Args:
        rows: rows of that table, from which the passes over it follow where `student` has no number of them.

    Raises:
        ConfigError: a setting of `student` is unknown, invalid, or made by the run itself.
    """
    for key in TAKEN:
        inner: Any = config.student
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is not None or key in config.student:
            raise ConfigError(f"student.{key} is made by the distillation itself: leave it out")
    columns = "label_columns" if config.multi_label else "soft_label_columns"
    own: dict[str, Any] = {
        "base": base,
        "out": str(config.work / Path(config.out).name),
        "overwrite": True,
        "models_dir": config.models_dir,
        "seed": config.seed,
        **DEFAULTS,
        "optim.epochs": epochs_of(rows),
        "data.train": [{"path": str(config.work / TABLE)}],
        "data.text": column,
        f"data.{columns}": list(config.names),
        "data.task": "multi_label" if config.multi_label else "binary" if len(config.names) == 2 else "multiclass",
    }
    if not config.multi_label:
        own["loss"] = "kullback_leibler_divergence"
    if config.device is not None:
        own["device"] = config.device
    return loading.build(loading.laid(_merged(loading.laid({}, own), config.student), {}), "the settings of student")


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def train_student(config: TrainConfig, out: str, emit: Listener) -> TrainResult:
    """Train the student into the working folder; its train_config.yaml names the folder that it will be moved to."""

    def listener(event: Any) -> None:
        if isinstance(event, Warned):
            emit(Warned(event.text.replace(GO_ON, "the same command trains the student again, without scoring")))
        elif not isinstance(event, Finished | Saved):  # the folder is not where it will be yet
            emit(event)

    result = train(config, on_event=listener)
    recorded = result.path / model_folder.TRAIN_CONFIG
    content = loading.read_yaml(recorded) | {"out": out, "overwrite": False}
    recorded.write_text(loading.dump(loading.build(content)), encoding="utf-8")
    return result


class Student:
    """A trained student: scores `[N, L]` in the order of the run's labels."""

    def __init__(self, folder: Path, config: DistillConfig) -> None:
        checked = resolve(str(folder), config.models_dir)
        self._engine = Engine.load(checked, RuntimeSettings.from_environment(device=config.device).exact())
        self._order = [checked.labels.names.index(name) for name in config.names]

    def scores(self, texts: list[str]) -> Floats:
        """Return the scores of texts."""
        return np.asarray(self._engine.scores(texts)[:, self._order])

    def close(self) -> None:
        """Release the model."""
        self._engine.close()


def publish(folder: Path, out: Path) -> None:
    """Move the finished student to its place, and remove what its training left in the working folder."""
    model_folder.publish(folder, out)
    for rest in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(rest, ignore_errors=True) if rest.is_dir() else rest.unlink(missing_ok=True)
