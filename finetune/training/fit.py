"""From a base and encoded rows to a trained model: one attempt.

Knows: what the Trainer is given, and how a run ends.
Does not know: tables, the finished folder, the report, when there is another attempt (attempts.py).
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config.training import TrainConfig
from finetune.core.disk_space import GO_ON, checkpoints_at_once, require_free
from finetune.core.errors import ConfigError, TrainingError
from finetune.core.events import Info, Listener, Warned
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import Location
from finetune.core.registry import pick
from finetune.core.scores import activate
from finetune.core.target_scale import TargetScale
from finetune.core.tokenization import TextEncoder
from finetune.evaluation.evaluate import decided
from finetune.evaluation.metrics import LOSS, METRICS_OF_TASK, best_by, compute, measured
from finetune.modeling import heads
from finetune.modeling.build import Built, body_of, build_model, head_of, start_at_prior, write_target_scale
from finetune.modeling.cls_only_last_layer import first_token_only
from finetune.modeling.cpu_kernels import drop_quickly
from finetune.modeling.lora import with_lora
from finetune.modeling.trimmed_embedding import train_seen_rows, train_whole_again
from finetune.training import trackers
from finetune.training import trainer as training
from finetune.training.arguments import training_arguments
from finetune.training.auxiliary_losses import AUXILIARY
from finetune.training.batch_plan import BatchPlan
from finetune.training.callbacks import DIVERGED, Diverged, ReportedEarlyStopping
from finetune.training.checkpoints import CheckpointCallback, Note, Resuming, last_good_checkpoint
from finetune.training.gradient_monitor import GradientSnapshot, not_finite
from finetune.training.interruption import Interrupted, InterruptionCallback, SignalCatcher
from finetune.training.losses import loss_for, output_activation
from finetune.training.optim import freeze, frozen_depths, parts_of, trained
from finetune.training.progress import ProgressCallback
from finetune.training.trainer import Examples


@dataclass(frozen=True)
class AttemptInputs:
    """What is trained on, whatever the settings of an attempt: the base, the rows, their batches, and where checkpoints
    lie."""

    base: Location
    labels: LabelSpace
    encoder: TextEncoder
    train: Examples
    validation: Examples
    regime: BatchPlan
    work: Path
    say: Listener
    target: TargetScale | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, the config with which it was trained at last, the Trainer's log, and the looks at gradients."""

    model: Any
    config: TrainConfig
    history: list[dict[str, Any]]
    looks: list[GradientSnapshot]
    updates: int


class TrainingAttempt:
    """One attempt: the model, the Trainer around it, and the run."""

    def __init__(self, config: TrainConfig, given: AttemptInputs, note: Note | None = None) -> None:
        from transformers import set_seed

        self.config, self.given, self.say, self._is_said = config, given, given.say, False
        labels, train, regime = given.labels, given.train, given.regime
        terms = [pick(AUXILIARY, choice.name, choice.knobs, what="auxiliary term") for choice in config.auxiliary]
        set_seed(config.seed)
        built = built_for(config, given.base, labels, train.targets, given.target)
        self.say(Info(f"base {config.base}: {built}"))
        body, model = body_of(built.model), built.model
        self._warn_of_head(built)
        if config.model.lora is not None:
            model = with_lora(model, built.new, config.model.lora)
        parts = parts_of(model, built.model.base_model_prefix)
        if config.model.lora is None:
            freeze(model, parts, frozen_depths(config.model, parts, 0))
        self.say(Info(f"{trained(model, parts)}; {regime}"))
        if config.model.lora is None:
            train_seen_rows(body, train.tokens.vocabulary())
            parts = parts_of(model, built.model.base_model_prefix)
        drop_quickly(model)
        self.best_by = best_by(config.checkpoint.best_by, labels.task)
        loss = loss_for(
            labels.task,
            config.loss,
            shares=labels.are_shares(train.targets),
            class_weights=labels.weights(config.class_weights, train.targets),
            target=given.target,
        )
        self.trainer = training.HeadTrainer(
            config=config,
            parts=parts,
            batches=regime.batches,
            loss=loss,
            say=self.say,
            terms=[term(body) for term in terms],
            model=model,
            args=training_arguments(
                config,
                given.work,
                rows=regime.batches.batch_size,
                accumulation=regime.accumulation,
                updates=regime.updates,
                best_by=self.best_by,
                evaluation_parts=note.evaluation_parts if note is not None else 1,
            ),
            note=note,
            train_dataset=train,
            eval_dataset=given.validation,
            data_collator=training.Collator(
                given.encoder, with_segments=config.zero_shot.attention == "alternate" or bool(terms)
            ),
            processing_class=given.encoder.tokenizer,
            compute_metrics=self._metrics,
            callbacks=self._callbacks(),
        )

    def run(self, checkpoint: Path | None) -> TrainedModel:
        """Train, from a checkpoint if there is one."""
        from transformers.trainer_callback import PrinterCallback

        trainer, catcher = self.trainer, SignalCatcher()
        trainer.remove_callback(PrinterCallback)
        self._add_checkpointing(catcher)
        self._require_free()
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
                trainer.save_model(str(self.given.work / DIVERGED))
            raise
        except KeyboardInterrupt:
            self._say_interrupted()
            raise
        if catcher.received is not None:  # after the last checkpoint
            self._say_saved()
            catcher.deliver()
        _require_finite(trainer.model)
        trainer.watching.require_learned(trainer.state)
        # without the autocast that training put around its forward: what is measured is what will be served
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if self.config.model.lora is None:
            train_whole_again(body_of(model))
        if self.given.target is not None:
            write_target_scale(model, self.given.target)
        state = trainer.state
        return TrainedModel(model, self.config, state.log_history, trainer.watching.looks, state.global_step)

    def _callbacks(self) -> list[Any]:
        stop, given = self.config.optim.early_stopping, self.given
        rows, per_epoch = (len(given.train), len(given.validation)), given.regime.updates_per_epoch
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
        """Whether an evaluation follows the update that has just ended."""
        if self.trainer.args.eval_strategy != "epoch":
            return bool(control.should_evaluate)
        ends_epoch = state.global_step % self.given.regime.updates_per_epoch == 0
        return bool(ends_epoch or state.global_step >= state.max_steps)

    def _require_free(self) -> None:
        """Refuse a run that the disk cannot take."""
        checkpoint, regime = self.config.checkpoint, self.given.regime
        every = checkpoint.every_steps or regime.updates_per_epoch
        count = checkpoints_at_once(math.ceil(regime.updates / every), checkpoint.keep)
        weights = sum(weight.numel() for weight in self.trainer.model.state_dict().values())
        finished = weights * (2 if self.config.save_dtype == "bfloat16" else 4)
        require_free(count * self.trainer.checkpoint_bytes() + finished, self.given.work)

    def _save_interrupted(self, stop: Interrupted) -> None:
        """Save the update at which a run was interrupted, and report it."""
        trainer = self.trainer
        if not stop.is_saved:
            trainer.note = replace(trainer.note, evaluation_due=stop.evaluation_due)
            trainer._save_checkpoint(trainer.model, None)
            with suppress(Interrupted):
                trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        self._say_saved()

    def _metrics(self, prediction: Any) -> dict[str, float]:
        labels, references, logits = self.given.labels, prediction.label_ids, prediction.predictions
        task, target = labels.task, self.given.target
        if not np.isfinite(logits).all():
            update = self.trainer.state.global_step
            raise Diverged(not_finite("a score of the validation rows", update, self.config.optim.lr or 0.0))
        if target is not None:
            logits, references = target.restore(logits), target.restore(references)
        scores = activate(logits, output_activation(task, self.config.loss), target=target)
        if labels.are_shares(references):
            references = references.argmax(axis=1)
        found, references = decided(scores, references, task)
        values = compute(METRICS_OF_TASK[task], task, found, references)
        if self.best_by not in (*values, LOSS):
            values[self.best_by] = measured([self.best_by], found, references, scores).get(self.best_by, float("nan"))
        return values

    def _warn_of_head(self, built: Built) -> None:
        head, initializer = head_of(built.model), self.config.model.initializer
        if head is None:
            return
        alike = initializer is not None and initializer.name in ("zeros", "ones", "constant")
        for sentence in heads.warnings_of(head, self.given.regime.batches.batch_size, alike=alike):
            self.say(Warned(sentence))

    def _say_saved(self) -> None:
        state = self.trainer.state
        last = self.given.work / f"checkpoint-{state.global_step}"
        self.say(
            Warned(f"interrupted at update {state.global_step} of {state.max_steps}, which is saved as {last}; {GO_ON}")
        )
        self._is_said = True

    def _say_interrupted(self) -> None:
        if self._is_said:
            return
        best, last = self.trainer.state.best_model_checkpoint, last_good_checkpoint(self.given.work)
        if last is not None:
            best = f"the best checkpoint so far is {best}; " if best is not None else ""
            self.say(Warned(f"interrupted: {best}--resume goes on from {last}, and later updates are lost"))
        else:
            self.say(Warned("interrupted before the first checkpoint: nothing was saved"))
            shutil.rmtree(self.given.work, ignore_errors=True)


def built_for(
    config: TrainConfig,
    base: Location,
    labels: LabelSpace,
    targets: npt.NDArray[Any],
    target: TargetScale | None = None,
) -> Built:
    """The model of a config, whose output begins at the labels' shares, or the targets' mean."""
    if config.model.head.name != heads.STOCK and config.zero_shot.attention == "alternate":
        raise ConfigError("zero_shot.attention=alternate wants the base's own head: leave out model.head")
    built = build_model(base, labels, config.model)
    prior = labels.prior(targets, labels.weights(config.class_weights, targets))
    if target is not None and output_activation(labels.task, config.loss) == "softplus":
        prior = np.asarray([target.softplus_logit_of_mean], dtype=np.float32)
    start_at_prior(built.model, prior)
    return built


def _require_finite(model: Any) -> None:
    """Refuse a model with a weight that is no number.

    Raises:
        TrainingError: it has one.
    """
    import torch

    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise TrainingError("the run diverged: the weights are not finite. Lower the learning rate (--lr)")
