"""From a base and encoded rows to a trained model: built, trained, and mended where a remedy is known.

Knows: what the Trainer is given, and how a diagnosis leads to another attempt.
Does not know: tables, the finished folder, the report.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune import configfile, heads, trackers
from finetune import trainer as training
from finetune.artifact import Location
from finetune.auxiliary import AUXILIARY
from finetune.callbacks import DIVERGED, Diverged, Stopping
from finetune.config import TrainConfig
from finetune.cpu import drop_quickly, memory_kept
from finetune.encoding import TextEncoder
from finetune.errors import ConfigError, TrainingError
from finetune.events import Listener, Said, Warned
from finetune.first_token import first_token_only
from finetune.gradients import Look
from finetune.labels import LabelSpace
from finetune.lora import with_lora
from finetune.losses import loss_for, output_activation
from finetune.measure import decided
from finetune.metrics import LOSS, METRICS_OF_TASK, best_by, compute, measured
from finetune.model import Built, body_of, build_model, head_of, start_at_prior, write_target_scale
from finetune.optim import freeze, frozen_depths, parts_of, trained
from finetune.regime import Regime
from finetune.registry import pick
from finetune.reporting import Reporting, last_good_checkpoint
from finetune.scores import activate
from finetune.target_scale import TargetScale
from finetune.trainer import Examples
from finetune.vocabulary import train_seen_rows, train_whole_again


@dataclass(frozen=True)
class Given:
    """What is trained on, whatever the settings of an attempt: the base, the rows, their batches, and where checkpoints
    lie."""

    base: Location
    labels: LabelSpace
    encoder: TextEncoder
    train: Examples
    validation: Examples
    regime: Regime
    work: Path
    say: Listener
    target: TargetScale | None = None


@dataclass(frozen=True)
class Fitted:
    """A trained model, the config with which it was trained at last, the Trainer's log, and the looks at gradients."""

    model: Any
    config: TrainConfig
    history: list[dict[str, Any]]
    looks: list[Look]
    updates: int


def fit(config: TrainConfig, given: Given) -> Fitted:
    """Train a base on encoded rows.

    Raises:
        FinetuneError: settings that do not go together (before any update), or a run that diverged and no remedy is
            asked for, or none is left.
    """
    checkpoint = last_good_checkpoint(given.work) if config.resume else None
    if not config.resume:
        shutil.rmtree(given.work, ignore_errors=True)
    attempt = 0
    while True:
        try:
            return Fitting(config, given).run(checkpoint)
        except Diverged as diverged:
            attempt += 1
            changes = _applicable(config, diverged.diagnosis.safe)
            if config.gradients.remedy != "auto" or attempt > config.gradients.attempts or not changes:
                raise diverged.kept_in(given.work) from None
            # a head that begins otherwise cannot go on from weights of the old one
            fresh = any(key.startswith("model.") for key in changes)
            checkpoint = None if fresh else last_good_checkpoint(given.work)
            config = _changed(config, changes)
            shown = ", ".join(f"{key}={value}" for key, value in changes.items())
            since = checkpoint.name if checkpoint is not None else "the start"
            given.say(
                Warned(
                    f"remedy {attempt} of {config.gradients.attempts}: {diverged.diagnosis.sentence} "
                    f"Going on from {since} with {shown}"
                )
            )


class Fitting:
    """One attempt: the model, the Trainer around it, and the run."""

    def __init__(self, config: TrainConfig, given: Given) -> None:
        from transformers import set_seed

        self.config, self.given, self.say = config, given, given.say
        labels, train, regime = given.labels, given.train, given.regime
        terms = [pick(AUXILIARY, choice.name, choice.knobs, what="auxiliary term") for choice in config.auxiliary]
        set_seed(config.seed)
        built = built_for(config, given.base, labels, train.targets, given.target)
        self.say(Said(f"base {config.base}: {built}"))
        body, model = body_of(built.model), built.model
        self._warn_of_head(built)
        if config.model.lora is not None:
            model = with_lora(model, built.new, config.model.lora)
        parts = parts_of(model, built.model.base_model_prefix)
        if config.model.lora is None:
            freeze(model, parts, frozen_depths(config.model, parts, 0))
        self.say(Said(f"{trained(model, parts)}; {regime}"))
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
            args=training.training_arguments(
                config,
                given.work,
                rows=regime.batches.batch_size,
                accumulation=regime.accumulation,
                updates=regime.updates,
                best_by=self.best_by,
            ),
            train_dataset=train,
            eval_dataset=given.validation,
            data_collator=training.Collator(
                given.encoder, with_segments=config.zero_shot.attention == "alternate" or bool(terms)
            ),
            processing_class=given.encoder.tokenizer,
            compute_metrics=self._metrics,
            callbacks=self._callbacks(),
        )

    def run(self, checkpoint: Path | None) -> Fitted:
        """Train, from a checkpoint if there is one."""
        from transformers.trainer_callback import PrinterCallback

        trainer = self.trainer
        trainer.remove_callback(PrinterCallback)
        if checkpoint is not None:
            self.say(Said(f"resuming from {checkpoint}"))
        try:
            # a term beside the loss reads the states of all tokens
            with memory_kept(), first_token_only(trainer.model, wanted=not self.config.auxiliary):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except Diverged as diverged:
            if diverged.diagnosis.name == "loss_rose":
                trainer.save_model(str(self.given.work / DIVERGED))
            raise
        except KeyboardInterrupt:
            self._say_interrupted()
            raise
        _require_finite(trainer.model)
        trainer.watching.require_learned(trainer.state)
        # without the autocast that training put around its forward: what is measured is what will be served
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        if self.config.model.lora is None:
            train_whole_again(body_of(model))
        if self.given.target is not None:
            write_target_scale(model, self.given.target)
        state = trainer.state
        return Fitted(model, self.config, state.log_history, trainer.watching.looks, state.global_step)

    def _callbacks(self) -> list[Any]:
        stop, given = self.config.optim.early_stopping, self.given
        rows, per_epoch = (len(given.train), len(given.validation)), given.regime.updates_per_epoch
        found = [Reporting(self.say, *rows, per_epoch, self.best_by)]
        found += trackers.callbacks_of(self.config.report_to, self.config.out, self.say)
        return [*found, *([Stopping(stop, self.best_by, self.say)] if stop else [])]

    def _metrics(self, prediction: Any) -> dict[str, float]:
        labels, references, logits = self.given.labels, prediction.label_ids, prediction.predictions
        task, target = labels.task, self.given.target
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
        head, initialiser = head_of(built.model), self.config.model.initialiser
        if head is None:
            return
        alike = initialiser is not None and initialiser.name in ("zeros", "ones", "constant")
        for sentence in heads.warnings_of(head, self.given.regime.batches.batch_size, alike=alike):
            self.say(Warned(sentence))

    def _say_interrupted(self) -> None:
        best = self.trainer.state.best_model_checkpoint
        if best is not None:
            self.say(Warned(f"interrupted: the best checkpoint so far is {best}; --resume goes on from the last one"))
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


def _applicable(config: TrainConfig, changes: Any) -> dict[str, Any]:
    stock = config.model.head.name == heads.STOCK
    hidden = config.model.head.name == "mlp"
    return {
        key: value
        for key, value in changes.items()
        if (not key.startswith("model.head.") or hidden) and (not key.startswith("model.") or not stock)
    }


def _changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    optim = config.optim
    if "optim.lr" in changes and optim.lr and optim.head_lr:
        changes = changes | {"optim.head_lr": optim.head_lr * changes["optim.lr"] / optim.lr}
    return configfile.build(configfile.laid(config.model_dump(mode="json"), changes))
