"""What happens between a run's updates: looks at the gradients, layers that begin to train, the mean of the weights.

Knows: the Trainer's callbacks, and when each is due.
Does not know: how a look is taken or read (gradients.py), how weights are frozen (optim.py) or averaged (average.py).
"""

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
from finetune.training.ema import EmaWeights
from finetune.training.gradient_monitor import (
    ENDED_ABOVE,
    SMALLEST_LOSS,
    Diagnosis,
    GradientMonitor,
    GradientSnapshot,
    diagnose,
    loss_far_above,
    not_finite,
)
from finetune.training.optim import Parts, freeze, frozen_depths

START_LOSS = "start_loss"
"""Entry of the Trainer's log, and so of every checkpoint: the loss before the first update."""

ROWS_AT_START = 64
"""Training rows over which it is measured."""

DIVERGED = "diverged"
"""Folder, beside the checkpoints, of the weights of a run whose loss rose."""

FIRST_UPDATES = 2
"""Updates up to which a logged loss is one of the start too."""


class Diverged(TrainingError):
    """Training cannot go on as it is; `diagnosis` says why and what helps."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(str(diagnosis))
        self.diagnosis = diagnosis

    def kept_in(self, work: Path) -> Diverged:
        """The same error, which also says that no model was written, and where the checkpoints are."""
        found = Diverged(self.diagnosis)
        places = [*work.glob("checkpoint-*"), *work.glob(DIVERGED)]
        kept = f"its weights are kept in {work} for a look" if places else "there was no checkpoint yet"
        found.args = (f"{self}. No model is written; {kept}",)
        return found


class GradientMonitorCallback(TrainerCallback):
    """Looks at the gradients now and then, says what is wrong, and stops a run that is not finite any more."""

    def __init__(self, trainer: Any, say: Listener) -> None:
        self.trainer, self.say = trainer, say
        self.looks: list[GradientSnapshot] = []
        self.losses: list[float] = []
        self.start_loss = 0.0
        self._said: set[str] = set()
        self._watch = GradientMonitor(trainer.model, trainer.parts, head_of(trainer.model))
        self._every = 1

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._every = self.trainer.config.gradients.every or look_every(state.max_steps)
        known = [entry[START_LOSS] for entry in state.log_history if START_LOSS in entry]
        self.start_loss = known[0] if known else self.trainer.loss_of_rows(ROWS_AT_START)
        if not known and math.isfinite(self.start_loss):
            self.trainer.log({START_LOSS: self.start_loss})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        config = self.trainer.config
        other_rows = bool(config.auxiliary) or config.optim.sampler == "balanced"
        if len(self.losses) == 1 and (state.global_step <= FIRST_UPDATES or other_rows):
            # dropout, terms beside the loss, and the rows as they are drawn, are in this one
            self.start_loss = max(self.start_loss, self.losses[0])
        self._require_near_start(state, ended=False)

    def require_learned(self, state: Any) -> None:
        """Refuse a run that ended far above its start, on its training rows and on its validation rows.

        Raises:
            Diverged: it did.
        """
        last = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry][-1:]
        if not last or last[0] > ENDED_ABOVE * max(self.start_loss, SMALLEST_LOSS):
            self._require_near_start(state, ended=True)

    def _require_near_start(self, state: Any, *, ended: bool) -> None:
        lr = self.trainer.config.optim.lr or 0.0
        found = loss_far_above(self.losses, self.start_loss, state.global_step, lr, ended=ended)
        if found is not None and math.isfinite(self.start_loss):
            raise Diverged(found)

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.trainer.loss_of_update = 0.0
        if self._is_due(state):
            self._watch.open()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        due = self._is_due(state)
        # on a GPU a look at a number waits for all that is still being computed
        if due or args.device.type == "cpu":
            for what, value in (("the loss", self.trainer.loss_of_update), ("a gradient", self.trainer.norm_of_update)):
                if not math.isfinite(float(value)):
                    self._stop(what, state.global_step + 1)
        if due:
            self._watch.before()
        if self.trainer.config.optim.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self.trainer.model.parameters(), self.trainer.config.optim.max_grad_value)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if not self._is_due(state):
            return
        lr = self.trainer._get_learning_rate()
        look = self._watch.after(state.global_step + 1, float(self.trainer.loss_of_update), float(lr))
        self.looks.append(look)
        self.say(GradientsRecorded(look.update_number, dict(look.gradient), look.ratios))
        self.trainer.log({f"gradient_norm/{part}": value for part, value in look.gradient.items()})
        config = self.trainer.config
        head = config.model.head.name
        for found in diagnose(self.looks, lr=config.optim.lr or lr, layers=list(look.gradient), head=head):
            if found.name in self._said or self._said & {"exploding", "lr_too_high"}:
                continue
            self._said.add(found.name)
            if found.grave and config.gradients.auto_recover:
                raise Diverged(found)
            self.say(Warned(str(found)))

    def _is_due(self, state: Any) -> bool:
        return bool(state.global_step % self._every == 0)

    def _stop(self, what: str, update: int) -> None:
        first = self._watch.first_not_finite() if what != "the loss" else None
        raise Diverged(not_finite(first or what, update, self.trainer.config.optim.lr or 0.0))


class FreezingCallback(TrainerCallback):
    """Lets layers train as the epochs come."""

    def __init__(self, config: TrainConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        # a resumed run begins in the middle of an epoch
        freeze(model, self.parts, frozen_depths(self.config.model, self.parts, int((state.epoch or 0) + 1e-6)))


class ReportedEarlyStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Stop a run whose metric `best_by` has not got better in `patience` evaluations, and report it."""

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
                f"{self.best_by} has not got better than {best}{at} in {evaluations} (optim.early_stopping)"
            )
        )


class EmaCallback(TrainerCallback):
    def __init__(self, average: EmaWeights) -> None:
        self.average = average

    def on_optimizer_step(self, *args: Any, **rest: Any) -> None:
        self.average.update()


def look_every(updates: int) -> int:
    """Updates between two looks at the gradients: 40 looks in a long run, at least 5 in any; one costs as much as
    a quarter of an update."""
    return max(1, updates // 40, min(10, updates // 5))
