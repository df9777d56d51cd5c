"""What a run reports while it runs; every door draws the same stream.

Knows: the kinds of report and their fields.
Does not know: who listens, or how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Training begins: how much there is to do."""

    updates: int
    updates_per_epoch: int
    rows: int
    validation_rows: int


@dataclass(frozen=True)
class Step:
    """Progress: `loss` is the mean since the last report, `rows_per_s` and `left_s` count training time only."""

    update: int
    updates: int
    epoch: float
    loss: float
    lr: float
    rows_per_s: float
    left_s: float


@dataclass(frozen=True)
class Evaluated:
    """The validation split was scored; `best` says whether its metric `best_by` is the best of the run so far."""

    update: int
    epoch: float
    metrics: Mapping[str, float]
    best: bool
    best_by: str = ""


@dataclass(frozen=True)
class GradientsRecorded:
    """The gradients were looked at: by part of the model, their norm, and the size of the update as a share of the
    weights' norm."""

    update: int
    gradient: Mapping[str, float]
    ratio: Mapping[str, float]


@dataclass(frozen=True)
class Saved:
    """Something was written: a checkpoint, or at the end the model folder."""

    path: str


@dataclass(frozen=True)
class Info:
    """A choice that was made for the user, or a fact worth knowing."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something looks wrong, and the run goes on."""

    text: str


@dataclass(frozen=True)
class Failed:
    """The run ended without a model."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The model folder stands; `notes` say what is wrong with it, and what its metrics were measured on."""

    path: str
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()


Event = Started | Step | Evaluated | GradientsRecorded | Saved | Info | Warned | Failed | Finished
Listener = Callable[[Event], None]
