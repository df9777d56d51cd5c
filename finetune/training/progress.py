"""Reports the progress of training as events."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from finetune.core.events import Evaluated, Listener, Started, Step
from finetune.evaluation.metrics import LOSS, LOWER_IS_BETTER
from finetune.training.checkpoints import best_loss

FIRST_ESTIMATE = 5
"""Updates after which the remaining time is first reported."""


class ProgressCallback(TrainerCallback):
    """Turns the Trainer's callbacks into events.

    Args:
        rows, validation_rows: rows of the splits.
        per_epoch: updates in an epoch.
        best_by: the metric that chooses the best checkpoint.
    """

    def __init__(self, listener: Listener, rows: int, validation_rows: int, per_epoch: int, best_by: str) -> None:
        self.listener, self.rows, self.validation_rows = listener, rows, validation_rows
        self.per_epoch, self.best_by = per_epoch, best_by
        self.began_s = 0.0
        self.paused_s = 0.0
        self.paused_from_s = 0.0
        self.first = 0
        self.sign = -1.0 if best_by in LOWER_IS_BETTER else 1.0
        self.best, self.best_loss = -math.inf, math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.listener(Started(state.max_steps, self.per_epoch, self.rows, self.validation_rows))
        self.first = state.global_step
        self.best = self.sign * state.best_metric if state.best_metric is not None else -math.inf
        self.best_loss = best_loss(state) if state.best_metric is not None else math.inf
        self.began_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.first + FIRST_ESTIMATE:
            control.should_log = True  # so that the remaining time is known early
        self.paused_from_s = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step > self.first:  # evaluation and saving happen between step_end and step_begin
            self.paused_s += time.perf_counter() - self.paused_from_s

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if not logs or "loss" not in logs:
            return
        took_s = max(time.perf_counter() - self.began_s - self.paused_s, 1e-9)
        done = state.global_step - self.first
        left_s = took_s / done * (state.max_steps - state.global_step)
        rate = done * self.rows / self.per_epoch / took_s
        self.listener(
            Step(
                state.global_step,
                state.max_steps,
                state.epoch or 0.0,
                logs["loss"],
                logs["learning_rate"],
                rate,
                left_s,
            )
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:
        values = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        score = self.sign * values.get(self.best_by, math.nan)
        loss = values.get(LOSS, math.nan)
        better = score > self.best or (score == self.best and loss < self.best_loss)  # never for NaN
        if better:
            self.best, self.best_loss = score, loss
        self.listener(Evaluated(state.global_step, state.epoch or 0.0, values, better, self.best_by))
