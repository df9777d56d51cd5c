"""The Trainer's callbacks for checkpoints: when they are written, and what a resumed run takes from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune.core.events import Listener, Saved, Warned
from finetune.training import processes
from finetune.training.checkpoints import evaluations_without_gain, is_whole, prune


class Resuming(TrainerCallback):
    """Completes the state of a resumed run: the path of the best checkpoint, and the evaluations since.

    Args:
        stopping: callbacks for early stopping, with the attributes of transformers' EarlyStoppingCallback.
    """

    def __init__(self, stopping: Sequence[Any], say: Listener) -> None:
        self.stopping, self.say = stopping, say

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == 0:
            return
        if state.best_global_step:
            self._find_best(Path(args.output_dir), state)
        counted = evaluations_without_gain(
            state.log_history, args.metric_for_best_model, greater_is_better=bool(args.greater_is_better)
        )
        for callback in self.stopping:
            callback.early_stopping_patience_counter = counted
            control.should_training_stop |= counted >= callback.early_stopping_patience

    def _find_best(self, work: Path, state: Any) -> None:
        best = work / f"checkpoint-{state.best_global_step}"
        if is_whole(best):
            state.best_model_checkpoint = str(best)
            return
        self.say(
            Warned(f"the best checkpoint, {best}, is missing or damaged; the best one is now chosen among later ones")
        )
        state.best_metric = state.best_global_step = state.best_model_checkpoint = None


class CheckpointCallback(TrainerCallback):
    """Saves at time intervals, keeps the newest checkpoints and the best one, and runs an evaluation that an
    interruption left out.

    Args:
        trainer: a trainer with `note`, the Note of its checkpoints.
        keep: how many of the newest checkpoints are kept.
        every_minutes: time between saves; 0 saves only when the Trainer does.
        is_due: `(control, state) -> bool`, whether an evaluation follows the update that has just ended.
        before_evaluation: called before an evaluation that was left out.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        keep: int,
        every_minutes: float,
        is_due: Callable[[Any, Any], bool],
        before_evaluation: Callable[[], None],
        say: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer, self.keep, self.say, self.clock = trainer, keep, say, clock
        self.every_s, self.is_due, self.before_evaluation = every_minutes * 60, is_due, before_evaluation
        self._last_s = clock()

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._last_s = self.clock()
        if state.global_step and self.trainer.note.evaluation_due:
            self._evaluate(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        # an evaluation is followed by a checkpoint anyway, which is exact only after it
        if self.every_s and not self.is_due(control, state):
            # a process whose clock is late saves too
            control.should_save |= processes.any_of(self.clock() - self._last_s >= self.every_s)

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._last_s = self.clock()
        work = Path(args.output_dir)
        if processes.is_main():
            prune(work, self.keep, state.best_model_checkpoint)
        self.say(Saved(str(work / f"checkpoint-{state.global_step}")))

    def _evaluate(self, args: Any, state: Any) -> None:
        trainer = self.trainer
        trainer._load_rng_state(str(Path(args.output_dir) / f"checkpoint-{state.global_step}"))
        self.before_evaluation()
        metrics = trainer._evaluate(None, None)
        trainer._determine_best_metric(metrics=metrics, trial=None)
        trainer.note = replace(trainer.note, evaluation_due=False)
        # replaces the checkpoint that was resumed from: the generators' states are read from it again
        trainer._save_checkpoint(trainer.model, None)
        trainer.callback_handler.on_save(trainer.args, state, trainer.control)
