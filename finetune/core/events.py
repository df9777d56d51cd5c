"""The events of a training run, which every interface shows in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Training begins."""

    updates: int
    updates_per_epoch: int
    rows: int
    validation_rows: int


@dataclass(frozen=True)
class Step:
    """Progress of training.

    Attributes:
        update, updates: the current update, and their number in the whole run.
        loss: mean since the last event.
        rows_per_s, left_s: rows per second and remaining seconds, without evaluations.
    """

    update: int
    updates: int
    epoch: float
    loss: float
    lr: float
    rows_per_s: float
    left_s: float


@dataclass(frozen=True)
class Processed:
    """Progress of a pass over the texts before training.

    Attributes:
        verb: what is done to them, in the past tense, such as `scored`.
        done, rows: texts that are done, and all.
        left_s: remaining seconds; None while no text took any time.
    """

    verb: str
    done: int
    rows: int
    left_s: float | None


@dataclass(frozen=True)
class Evaluated:
    """The validation split was evaluated.

    Attributes:
        best: whether the metric `best_by` is the best of the run so far.
    """

    update: int
    epoch: float
    metrics: Mapping[str, float]
    best: bool
    best_by: str = ""


@dataclass(frozen=True)
class GradientsRecorded:
    """A gradient snapshot was taken.

    Attributes:
        gradient: part of the model -> norm of its gradient.
        ratio: part of the model -> norm of its update over the norm of its weights.
    """

    update: int
    gradient: Mapping[str, float]
    ratio: Mapping[str, float]


@dataclass(frozen=True)
class Saved:
    """A checkpoint or the model folder was written."""

    path: str


@dataclass(frozen=True)
class Info:
    """A default that was chosen, or another fact about the run."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something may be wrong; the run continues."""

    text: str


@dataclass(frozen=True)
class Failed:
    """The run ended without a model."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The model folder is complete.

    Attributes:
        notes: reservations about the model and its metrics.
    """

    path: str
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()


Event = Started | Step | Processed | Evaluated | GradientsRecorded | Saved | Info | Warned | Failed | Finished
Listener = Callable[[Event], None]
