"""One attempt at training: from a base and encoded rows to a trained model.

Whether there is another attempt is decided in attempts.py.
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.training import TrainConfig
from finetune.core.disk_space import GO_ON, checkpoints_at_once, require_free
from finetune.core.errors import ConfigError, TrainingError
from finetune.core.events import Info, Listener, Warned
from finetune.core.model_folder import Location
from finetune.core.registry import pick
from finetune.core.tokenization import TextEncoder
from finetune.evaluation.evaluate import decided
from finetune.evaluation.metrics import LOSS, METRICS_OF_TASK, best_by, compute, measured
from finetune.modeling import heads
from finetune.modeling.build import (
    Built,
    body_of,
    build_model,
    head_of,
    read_target_scale,
    start_at_prior,
    write_target_scale,
)
from finetune.modeling.cls_only_last_layer import first_token_only
from finetune.modeling.cpu_kernels import use_fast_dropout
from finetune.modeling.kept_head import NEW_HEAD, HeadPlan
from finetune.modeling.lora import with_lora
from finetune.modeling.saved_dtype import BYTES
from finetune.modeling.trimmed_embedding import train_seen_rows, train_whole_again
from finetune.training import processes, trackers
from finetune.training import trainer as training
from finetune.training.arguments import training_arguments
from finetune.training.auxiliary_losses import AUXILIARY
from finetune.training.batch_plan import BatchPlan
from finetune.training.callbacks import DIVERGED, Diverged, ReportedEarlyStopping
from finetune.training.checkpoint_callbacks import CheckpointCallback, Resuming
from finetune.training.checkpoints import Note, last_good_checkpoint
from finetune.training.diagnosis import not_finite
from finetune.training.examples import Collator, Examples
from finetune.training.gradient_monitor import GradientSnapshot
from finetune.training.interruption import Interrupted, InterruptionCallback, SignalCatcher
from finetune.training.objective import Objective
from finetune.training.optim import freeze, frozen_depths, parts_of, trained
from finetune.training.progress import ProgressCallback


@dataclass(frozen=True)
class AttemptInputs:
    """What every attempt of a run shares: base, objective, rows, batches, the folder of the checkpoints, the
    listener, and what is kept of the base's head."""

    base: Location
    objective: Objective
    encoder: TextEncoder
    train: Examples
    validation: Examples
    batch_plan: BatchPlan
    work: Path
    say: Listener
    head: HeadPlan = NEW_HEAD


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, the config of the last attempt, the Trainer's log, the gradient snapshots and the updates made.

    Attributes:
        held_out: of few-shot training without validation rows, the logits `[N, C]` of each training row by a model of
            the other folds.
        tried: of few-shot training, the ways that were cross-validated.
    """

    model: Any
    config: TrainConfig
    history: list[dict[str, Any]]
    snapshots: list[GradientSnapshot]
    updates: int
    held_out: Any = None
    tried: tuple[Any, ...] = ()


class TrainingAttempt:
    """One attempt: the model, the Trainer around it, and the run."""

    def __init__(self, config: TrainConfig, inputs: AttemptInputs, note: Note | None = None) -> None:
        from transformers import set_seed

        self.config, self.inputs, self.say, self._is_reported = config, inputs, inputs.say, False
        train, plan = inputs.train, inputs.batch_plan
        terms = [pick(AUXILIARY, choice.name, choice.options, what="auxiliary term") for choice in config.auxiliary]
        set_seed(config.seed)
        built = built_for(config, inputs.base, inputs.objective, train, inputs.head)
        self.say(Info(f"base {config.base}: {built}"))
        body, model = body_of(built.model), built.model
        self._warn_of_head(built)
        if config.model.lora is not None:
            model = with_lora(model, built.new, config.model.lora)
        parts = parts_of(model, built.model.base_model_prefix)
        if config.model.lora is None:
            freeze(model, parts, frozen_depths(config.model, parts, 0))
        self.say(Info(f"{trained(model, parts)}; {plan}"))
        if config.model.lora is None:
            train_seen_rows(body, train.tokens.vocabulary())
            parts = parts_of(model, built.model.base_model_prefix)
        use_fast_dropout(model)
        self.best_by = best_by(config.checkpoint.best_by, inputs.objective.labels.task)
        self.trainer = training.HeadTrainer(
            config=config,
            parts=parts,
            batches=plan.batches,
            loss=inputs.objective.loss_function(),
            say=self.say,
            terms=[term(body, inputs.encoder.tokenizer) for term in terms],
            model=model,
            args=training_arguments(
                config,
                inputs.work,
                rows=plan.batches.batch_size,
                accumulation=plan.accumulation,
                updates=plan.updates,
                best_by=self.best_by,
                evaluation_parts=note.evaluation_parts if note is not None else 1,
            ),
            note=note,
            train_dataset=train,
            eval_dataset=inputs.validation,
            data_collator=Collator(
                inputs.encoder, with_segments=config.zero_shot.attention == "alternate" or bool(terms)
            ),
            processing_class=inputs.encoder.tokenizer,
            compute_metrics=self._metrics,
            callbacks=self._callbacks(),
        )

    def run(self, checkpoint: Path | None) -> TrainedModel:
        """Train, from a checkpoint if there is one, and return the trained model."""
        from transformers import set_seed
        from transformers.trainer_callback import PrinterCallback

        trainer, catcher = self.trainer, SignalCatcher()
        trainer.remove_callback(PrinterCallback)
        self._add_checkpointing(catcher)
        processes.on_main(self._require_free)
        if processes.count() > 1:  # otherwise all would drop the same elements of their rows
            set_seed(self.config.seed + processes.rank())
        if checkpoint is not None:
            self.say(Info(f"resuming from {checkpoint}"))
        try:
            # a term beside the loss reads the states of all tokens
            with catcher, first_token_only(trainer.model, wanted=not self.config.auxiliary):
                try:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
                except Interrupted as stop:
                    self._save_interrupted(stop)
                    catcher.deliver()
        except Diverged as diverged:
            if diverged.diagnosis.name == "loss_rose":
                trainer.save_model(str(self.inputs.work / DIVERGED))
            raise
        except KeyboardInterrupt:
            self._report_interrupted()
            raise
        if catcher.is_due():  # after the last checkpoint
            self._report_saved()
            catcher.deliver()
        _require_finite(trainer.model)
        trainer.gradient_monitoring.require_learned(trainer.state)
        # without the autocast that training put around forward, so that the weights are measured as they are served
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if self.config.model.lora is None:
            train_whole_again(body_of(model))
        if self.inputs.objective.target_scale is not None:
            write_target_scale(model, self.inputs.objective.target_scale)
        state = trainer.state
        return TrainedModel(
            model, self.config, state.log_history, trainer.gradient_monitoring.snapshots, state.global_step
        )

    def _callbacks(self) -> list[Any]:
        stop, inputs = self.config.optim.early_stopping, self.inputs
        rows, per_epoch = (len(inputs.train), len(inputs.validation)), inputs.batch_plan.updates_per_epoch
        stopping = [ReportedEarlyStopping(stop, self.best_by, self.say)] if stop else []
        trackers_of_run = trackers.callbacks_of(self.config.report_to, self.config.out, self.say)
        reporting = ProgressCallback(self.say, *rows, per_epoch, self.best_by)
        return [Resuming(stopping, self.say), reporting, *trackers_of_run, *stopping]

    def _add_checkpointing(self, catcher: SignalCatcher) -> None:
        checkpoint = self.config.checkpoint
        interrupting = InterruptionCallback(catcher, self._is_evaluation_due, self.say)
        self.trainer.add_callback(
            CheckpointCallback(
                self.trainer,
                keep=checkpoint.keep,
                every_minutes=checkpoint.every_minutes or 0.0,
                is_due=self._is_evaluation_due,
                before_evaluation=interrupting.remember_random,
                say=self.say,
            )
        )
        self.trainer.add_callback(interrupting)

    def _is_evaluation_due(self, control: Any, state: Any) -> bool:
        """Return whether an evaluation follows the update that has just ended."""
        if self.trainer.args.eval_strategy != "epoch":
            return bool(control.should_evaluate)
        ends_epoch = state.global_step % self.inputs.batch_plan.updates_per_epoch == 0
        return bool(ends_epoch or state.global_step >= state.max_steps)

    def _require_free(self) -> None:
        """Refuse a run whose checkpoints and finished model do not fit the disk."""
        checkpoint, plan = self.config.checkpoint, self.inputs.batch_plan
        every = checkpoint.every_steps or plan.updates_per_epoch
        count = checkpoints_at_once(math.ceil(plan.updates / every), checkpoint.keep)
        weights = sum(weight.numel() for weight in self.trainer.model.state_dict().values())
        finished = weights * BYTES[self.config.save_dtype]
        require_free(count * self.trainer.checkpoint_bytes() + finished, self.inputs.work)

    def _save_interrupted(self, stop: Interrupted) -> None:
        """Save the update at which a run was interrupted, and report it."""
        trainer = self.trainer
        if not stop.is_saved:
            trainer.note = replace(trainer.note, evaluation_due=stop.evaluation_due)
            trainer._save_checkpoint(trainer.model, None)
            with suppress(Interrupted):
                trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        self._report_saved()

    def _metrics(self, prediction: Any) -> dict[str, float]:
        objective, references, (logits, losses) = self.inputs.objective, prediction.label_ids, prediction.predictions
        task = objective.labels.task
        if not np.isfinite(logits).all():
            update = self.trainer.state.global_step
            raise Diverged(not_finite("a score of the validation rows", update, self.config.optim.lr or 0.0))
        if objective.target_scale is not None:
            logits, references = objective.target_scale.restore(logits), objective.target_scale.restore(references)
        scores = objective.scores(logits)
        if objective.labels.are_soft(references):
            references = references.argmax(axis=1)
        predictions, references = decided(scores, references, task)
        values = compute(METRICS_OF_TASK[task], task, predictions, references)
        if self.best_by not in (*values, LOSS):
            values[self.best_by] = measured([self.best_by], predictions, references, scores).get(
                self.best_by, float("nan")
            )
        return {LOSS: float(losses.mean(dtype=np.float64)), **values}

    def _warn_of_head(self, built: Built) -> None:
        head, initializer = head_of(built.model), self.config.model.initializer
        if head is None:
            return
        alike = initializer is not None and initializer.name in ("zeros", "ones", "constant")
        for sentence in heads.warnings_of(head, self.inputs.batch_plan.batches.batch_size, alike=alike):
            self.say(Warned(sentence))

    def _report_saved(self) -> None:
        state = self.trainer.state
        last = self.inputs.work / f"checkpoint-{state.global_step}"
        self.say(Warned(f"interrupted at update {state.global_step} of {state.max_steps}, saved as {last}; {GO_ON}"))
        self._is_reported = True

    def _report_interrupted(self) -> None:
        if self._is_reported:
            return
        best, last = self.trainer.state.best_model_checkpoint, last_good_checkpoint(self.inputs.work)
        if last is not None:
            best = f"the best checkpoint so far is {best}; " if best is not None else ""
            self.say(Warned(f"interrupted: {best}--resume goes on from {last}, and later updates are lost"))
        else:
            self.say(Warned("interrupted before the first checkpoint: nothing is saved"))
            if processes.is_main():
                shutil.rmtree(self.inputs.work, ignore_errors=True)


def built_for(
    config: TrainConfig, base: Location, objective: Objective, train: Examples, head: HeadPlan = NEW_HEAD
) -> Built:
    """Return the model of a config; new rows of its output layer start at the class proportions, or the mean, of the
    rows.

    Raises:
        ConfigError: a head other than the base's own with zero_shot.attention=alternate.
    """
    if config.model.head.name != heads.STOCK and config.zero_shot.attention == "alternate":
        raise ConfigError("zero_shot.attention=alternate requires the base's own head: leave out model.head")
    built = build_model(base, objective.labels, config.model, head)
    start_at_prior(built.model, objective.prior(train.targets, train.weights), head.rows)
    if head.rows and objective.target_scale is not None:
        read_target_scale(built.model, objective.target_scale)
    return built


def _require_finite(model: Any) -> None:
    """Raise TrainingError if a weight of the model is not finite."""
    import torch

    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise TrainingError("the run diverged: the weights are not finite. Lower the learning rate (--lr)")
