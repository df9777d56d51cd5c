"""The Trainer's callbacks for gradient monitoring, gradual unfreezing, early stopping and the EMA of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from finetune.config.training import TrainConfig
from finetune.core.errors import TrainingError
from finetune.core.events import GradientsRecorded, Info, Listener, Warned
from finetune.modeling.build import head_of
from finetune.training import processes
from finetune.training.diagnosis import (
    ENDED_ABOVE,
    SMALLEST_LOSS,
    Diagnosis,
    diagnose,
    loss_far_above,
    not_finite,
)
from finetune.training.ema import EmaWeights
from finetune.training.gradient_monitor import GradientMonitor, GradientSnapshot
from finetune.training.optim import Parts, freeze, frozen_depths

START_LOSS = "start_loss"
"""Key of the loss before the first update in the Trainer's log, and so in every checkpoint."""

ROWS_AT_START = 64
"""Training rows over which the loss before the first update is measured."""

DIVERGED = "diverged"
"""Folder, beside the checkpoints, for the weights of a run whose loss rose."""

FIRST_UPDATES = 2
"""Updates up to which a logged loss counts as one of the start."""


class Diverged(TrainingError):
    """Training diverged; `diagnosis` holds the reason and the suggested fixes."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(str(diagnosis))
        self.diagnosis = diagnosis

    def kept_in(self, work: Path) -> Diverged:
        """Return the same error, which also states that no model was written, and where the checkpoints are."""
        error = Diverged(self.diagnosis)
        places = [*work.glob("checkpoint-*"), *work.glob(DIVERGED)]
        where = f"the checkpoints are kept in {work} for inspection" if places else "there is no checkpoint yet"
        error.args = (f"{self}. No model was written; {where}",)
        return error


class GradientMonitorCallback(TrainerCallback):
    """Takes gradient snapshots at intervals, reports problems, and stops a run with a loss or gradient that is not
    finite."""

    def __init__(self, trainer: Any, say: Listener) -> None:
        self.trainer, self.say = trainer, say
        self.snapshots: list[GradientSnapshot] = []
        self.losses: list[float] = []
        self.start_loss = 0.0
        self._reported: set[str] = set()
        self._monitor = GradientMonitor(trainer.model, trainer.parts, head_of(trainer.model))
        self._every = 1

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._every = self.trainer.config.gradients.every or snapshot_every(state.max_steps)
        known = [entry[START_LOSS] for entry in state.log_history if START_LOSS in entry]
        self.start_loss = known[0] if known else processes.on_main(lambda: self.trainer.loss_of_rows(ROWS_AT_START))
        if not known and math.isfinite(self.start_loss):
            self.trainer.log({START_LOSS: self.start_loss})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        config = self.trainer.config
        other_rows = bool(config.auxiliary) or config.optim.sampler == "balanced"
        if len(self.losses) == 1 and (state.global_step <= FIRST_UPDATES or other_rows):
            # this one includes dropout, auxiliary terms and the sampler's rows
            self.start_loss = max(self.start_loss, self.losses[0])
        self._require_near_start(state, ended=False)

    def require_learned(self, state: Any) -> None:
        """Raise Diverged if the training loss and the validation loss both ended far above the loss at the start."""
        last = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry][-1:]
        if not last or last[0] > ENDED_ABOVE * max(self.start_loss, SMALLEST_LOSS):
            self._require_near_start(state, ended=True)

    def _require_near_start(self, state: Any, *, ended: bool) -> None:
        lr = self.trainer.config.optim.lr or 0.0
        diagnosis = loss_far_above(self.losses, self.start_loss, state.global_step, lr, ended=ended)
        if diagnosis is not None and math.isfinite(self.start_loss):
            raise Diverged(diagnosis)

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.trainer.loss_of_update, self.trainer.norm_of_update = 0.0, None
        if self._is_due(state):
            self._monitor.open()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        due = self._is_due(state)
        if self.trainer.norm_of_update is None:
            raise TrainingError("this release of transformers does not compute the gradients' norm before an update")
        # on a GPU, reading a number waits for all kernels before it
        if due or args.device.type == "cpu":
            self.trainer.loss_of_update = processes.total(float(self.trainer.loss_of_update))
            for what, value in (("the loss", self.trainer.loss_of_update), ("a gradient", self.trainer.norm_of_update)):
                if not math.isfinite(float(value)):
                    self._stop(what, state.global_step + 1)
        if due:
            self._monitor.before()
        if self.trainer.config.optim.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self.trainer.model.parameters(), self.trainer.config.optim.max_grad_value)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if not self._is_due(state):
            return
        lr = self.trainer._get_learning_rate()
        snapshot = self._monitor.after(state.global_step + 1, float(self.trainer.loss_of_update), float(lr))
        self.snapshots.append(snapshot)
        self.say(GradientsRecorded(snapshot.update_number, dict(snapshot.gradient), snapshot.ratios))
        self.trainer.log({f"gradient_norm/{part}": value for part, value in snapshot.gradient.items()})
        config = self.trainer.config
        head, layers = config.model.head.name, list(snapshot.gradient)
        for diagnosis in diagnose(self.snapshots, lr=config.optim.lr or lr, layers=layers, head=head):
            if diagnosis.name in self._reported or self._reported & {"exploding", "lr_too_high"}:
                continue
            self._reported.add(diagnosis.name)
            if diagnosis.grave and config.gradients.auto_recover:
                raise Diverged(diagnosis)
            self.say(Warned(str(diagnosis)))

    def _is_due(self, state: Any) -> bool:
        return bool(state.global_step % self._every == 0)

    def _stop(self, what: str, update: int) -> None:
        first = self._monitor.first_not_finite() if what != "the loss" else None
        raise Diverged(not_finite(first or what, update, self.trainer.config.optim.lr or 0.0))


class FreezingCallback(TrainerCallback):
    """Gradual unfreezing: sets which layers train at the start of each epoch."""

    def __init__(self, config: TrainConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        # a resumed run may begin within an epoch
        freeze(model, self.parts, frozen_depths(self.config.model, self.parts, int((state.epoch or 0) + 1e-6)))


class ReportedEarlyStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Stops a run whose metric `best_by` has not improved in `patience` evaluations, and reports it."""

    def __init__(self, patience: int, best_by: str, say: Listener) -> None:
        super().__init__(patience)
        self.best_by, self.say = best_by, say

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **rest: Any) -> None:
        super().on_evaluate(args, state, control, metrics, **rest)
        if self.early_stopping_patience_counter < self.early_stopping_patience:
            return
        best = "none" if state.best_metric is None else f"{state.best_metric:.4f}"
        at = f" of update {state.best_global_step}" if state.best_global_step else ""
        evaluations = f"{self.early_stopping_patience} evaluation{'s' if self.early_stopping_patience > 1 else ''}"
        self.say(
            Info(
                f"stopped early at update {state.global_step} of {state.max_steps}, epoch {state.epoch or 0.0:.2f}: "
                f"{self.best_by} has not improved on {best}{at} in {evaluations} (optim.early_stopping)"
            )
        )


class EmaCallback(TrainerCallback):
    """Updates the EMA of the weights after each update."""

    def __init__(self, ema: EmaWeights) -> None:
        self.ema = ema

    def on_optimizer_step(self, *args: Any, **rest: Any) -> None:
        self.ema.update()


def snapshot_every(updates: int) -> int:
    """Return the updates between two gradient snapshots: 40 snapshots in a long run, at least 5 in any; one costs as
    much as a quarter of an update."""
    return max(1, updates // 40, min(10, updates // 5))
