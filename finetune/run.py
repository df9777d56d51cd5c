"""The story of a training run, top to bottom, and of an evaluation.

Knows: the order of the steps, and that nothing at `out` is touched before the new folder is complete.
Does not know: how any step works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import artifact, configfile, report
from finetune.artifact import ClassifierSettings, ZeroShotSettings
from finetune.auxiliary import AUXILIARY
from finetune.base_fit import BaseFit, look
from finetune.baseline import tfidf_scores
from finetune.card import model_card
from finetune.config import Choice, TrainConfig
from finetune.data import Splits, load_splits
from finetune.encoding import TextEncoder
from finetune.errors import TrainingError
from finetune.events import Finished, Listener, Said, Saved, Warned
from finetune.hub import fetched
from finetune.labels import LabelSpace
from finetune.losses import DEFAULT_LOSS, LOSSES, loss_for
from finetune.measure import (
    beside_tfidf,
    decided,
    differences,
    evaluate,
    evaluation_json,
    scored_rows,
    write_evaluation,
)
from finetune.metrics import METRICS_OF_TASK, compute, load_metric
from finetune.model import base_config, body_of, build_model, start_at_prior
from finetune.near_duplicates import NearDuplicates
from finetune.near_duplicates import find as near_duplicates_of
from finetune.registry import pick
from finetune.report import Measured
from finetune.rows import Rows
from finetune.scores import ACTIVATION_OF_TASK, activate
from finetune.tokens import Tokens

__all__ = ["Plan", "TrainResult", "differences", "evaluate", "evaluation_json", "plan", "train", "write_evaluation"]

LR_AT_WIDTH, LR_WIDTH = 5e-5, 768
"""Default learning rate, and the width of the base it is for; it falls in proportion to the width."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gives: the model folder, the metrics by split, the counts of the data, and the updates made."""

    path: Path
    metrics: dict[str, float]
    tests: dict[str, dict[str, float]]
    data: dict[str, int]
    updates: int


@dataclass(frozen=True)
class Plan:
    """What a run would do, known before any training; `config` has what was inferred written in."""

    config: TrainConfig
    splits: Splits
    fit: BaseFit
    near: NearDuplicates
    lengths: report.Lengths
    updates_per_epoch: int
    updates: int


def plan(config: TrainConfig, data: Any = None) -> Plan:
    """What `train` would do, without training."""
    base = _base_of(config)
    config, splits, encoder = _prepared(config, base, data)
    return _plan(config, splits, encoder, _tokens(encoder, splits.train))


def train(config: TrainConfig, data: Any = None, on_event: Listener | None = None) -> TrainResult:
    """Fine-tune `config.base` on a table and write a model folder to `config.out`.

    Args:
        data: an in-memory table in place of `config.data.train`: a pandas DataFrame, a `datasets.Dataset` or
            `DatasetDict`, a list of dicts, or a dict of those by split.
        on_event: called with each event of finetune.events.

    Raises:
        FinetuneError: bad settings, data or base (before any training), or a run that diverged.
    """
    from transformers import EarlyStoppingCallback, set_seed
    from transformers.trainer_callback import PrinterCallback

    from finetune import trainer as training

    say = on_event or (lambda event: None)
    out, work = Path(config.out), Path(config.out).with_name(f".{Path(config.out).name}.run")
    if config.resume and _is_finished(out):
        say(Said(f"{out} is finished: nothing to resume"))
        return _known_result(out)
    artifact.check_output(out, overwrite=config.overwrite)

    # 1. everything that can be refused is refused before training
    if config.loss is not None:
        pick(LOSSES, config.loss.name, config.loss.knobs, what="loss")
    terms = [pick(AUXILIARY, choice.name, choice.knobs, what="auxiliary term") for choice in config.auxiliary]
    base = _base_of(config)
    config, splits, encoder = _prepared(config, base, data)
    labels = splits.labels
    for sentence in splits.said:
        say(Said(sentence))
    loss = loss_for(labels.task, config.loss)
    for name in config.metrics:
        load_metric(name, labels.task)

    # 2. texts to tokens, the base's body under a new head
    shared = config.zero_shot.attention == "alternate"
    tokens = _tokens(encoder, splits.train)
    validation = _tokens(encoder, splits.validation)
    planned = _plan(config, splits, encoder, tokens)
    splits = planned.splits
    say(Said(str(planned.near)))
    say(Said(str(planned.fit)))
    for sentence in planned.fit.warnings:
        say(Warned(sentence))
    set_seed(config.seed)
    built = build_model(base, labels, dropout=config.model.dropout, attention_dropout=config.model.attention_dropout)
    targets = labels.encode(splits.train.values)
    start_at_prior(built.model, labels.prior(targets))
    say(Said(f"base {config.base}: {built}"))

    # 3. train, from the last good checkpoint if that is asked for
    if not config.resume:
        shutil.rmtree(work, ignore_errors=True)
    checkpoint = training.last_good_checkpoint(work) if config.resume else None
    best_by = METRICS_OF_TASK[labels.task][0]
    trainer = training.HeadTrainer(
        loss=loss,
        terms=[term(body_of(built.model)) for term in terms],
        alternate=shared,
        average=config.optim.average,
        model=built.model,
        args=training.training_arguments(config, work, len(splits.train), best_by),
        train_dataset=training.Examples(tokens, targets),
        eval_dataset=training.Examples(validation, labels.encode(splits.validation.values)),
        data_collator=training.Collator(encoder, with_segments=shared or bool(terms)),
        processing_class=encoder.tokenizer,
        compute_metrics=_trainer_metrics(labels),
        callbacks=[
            training.Reporting(say, len(splits.train), len(splits.validation), planned.updates_per_epoch, best_by),
            *([EarlyStoppingCallback(config.optim.early_stopping)] if config.optim.early_stopping else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint is not None:
        say(Said(f"resuming from {checkpoint}"))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    except KeyboardInterrupt:
        _say_interrupted(say, trainer, work)
        raise
    _require_finite(built.model)

    # 4. the finished folder, measured with the weights as they are saved, then moved into place
    folder = work / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    model = _rounded(trainer.model, config.save_dtype)
    settings = _settings(config, labels, encoder)
    if settings.zero_shot is not None and config.zero_shot.fit_on:
        from finetune.mix import fit

        mix = fit(model, encoder, settings.zero_shot, labels, config.zero_shot.fit_on, seed=config.seed, say=say)
        settings = replace(settings, zero_shot=replace(settings.zero_shot, mix=mix))
    figures = _measure(config, splits, targets, model, encoder, shared=shared, validation=validation)
    beaten = report.beaten_by_tfidf(labels, figures["validation"].scored)
    if beaten is not None:
        say(Warned(beaten))
    _write(folder, config, settings, planned, figures, trainer.state.log_history)
    _save_weights(trainer.model, folder, config.save_dtype)
    encoder.tokenizer.save_pretrained(folder)
    artifact.seal(folder)
    artifact.read(folder, check_hashes=True)
    artifact.publish(folder, out)
    shutil.rmtree(work, ignore_errors=True)
    values = {name: one.scored.values() for name, one in figures.items()}
    say(Saved(str(out)))
    say(Finished(str(out), values["validation"]))
    tests = {name: found for name, found in values.items() if name != "validation"}
    return TrainResult(out, values["validation"], tests, splits.counts, trainer.state.global_step)


def _base_of(config: TrainConfig) -> artifact.Location:
    found = artifact.find(config.base, config.models_dir)
    return fetched(found, config.models_dir, revision=config.model.revision)


def _prepared(config: TrainConfig, base: artifact.Location, data: Any) -> tuple[TrainConfig, Splits, TextEncoder]:
    # the base is looked at first: a wrong name should not cost the reading of a large table
    described = base_config(base)
    if base.path is not None:
        artifact.check_weights(base.path)
    splits = load_splits(config.data, seed=config.seed, data=data)
    encoder = TextEncoder.load(
        base.source,
        described.to_dict(),
        max_length=config.data.max_length,
        truncation="only_first"
        if splits.labels.nli is not None and splits.train.pairs is not None
        else "longest_first",
    )
    return _resolved(config, described, splits.labels, encoder), splits, encoder


def _resolved(config: TrainConfig, base: Any, labels: LabelSpace, encoder: TextEncoder) -> TrainConfig:
    """The config with what was inferred written in, so that training with it repeats the run."""
    width = int(getattr(base, "hidden_size", 0) or getattr(base, "dim", 0) or LR_WIDTH)
    lr = config.optim.lr or LR_AT_WIDTH * LR_WIDTH / width
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"task": labels.task, "max_length": encoder.max_length}),
            "optim": config.optim.model_copy(update={"lr": lr}),
            "loss": config.loss or Choice(name=DEFAULT_LOSS[labels.task]),
        }
    )


def _plan(config: TrainConfig, splits: Splits, encoder: TextEncoder, tokens: Tokens) -> Plan:
    import math

    from finetune.trainer import updates_per_epoch

    each = updates_per_epoch(config, len(splits.train))
    fit = look(encoder, splits.train.texts, tokens, base=config.base, seed=config.seed)
    near = near_duplicates_of(splits.by_name())
    splits = replace(splits, counts=splits.counts | near.counts)
    lengths = report.Lengths(tokens.lengths.tolist(), encoder.max_length, fit.truncated)
    return Plan(config, splits, fit, near, lengths, each, max(1, math.ceil(each * config.optim.epochs)))


def _tokens(encoder: TextEncoder, rows: Rows) -> Tokens:
    return Tokens(rows.texts, rows.pairs, encoder)


def _trainer_metrics(labels: LabelSpace) -> Callable[[Any], dict[str, float]]:
    def metrics(prediction: Any) -> dict[str, float]:
        scores = activate(prediction.predictions, ACTIVATION_OF_TASK[labels.task])
        found, references = decided(scores, prediction.label_ids, labels.task)
        return compute(METRICS_OF_TASK[labels.task], labels.task, found, references)

    return metrics


def _measure(
    config: TrainConfig,
    splits: Splits,
    targets: Any,
    model: Any,
    encoder: TextEncoder,
    *,
    shared: bool,
    validation: Tokens,
) -> dict[str, Measured]:
    from finetune.trainer import predict

    labels = splits.labels
    evaluated = {"validation": splits.validation, **splits.tests}
    plain: list[Any] = [None] * len(evaluated)
    if config.tfidf_baseline and labels.nli is None:  # entailment is not in the words
        plain = tfidf_scores(labels, splits.train, list(evaluated.values()), seed=config.seed)
    found = {}
    for (name, rows), without_encoder in zip(evaluated.items(), plain, strict=True):
        tokens = validation if name == "validation" else _tokens(encoder, rows)
        logits = predict(model, encoder, tokens, shared=shared)
        scores = activate(logits, ACTIVATION_OF_TASK[labels.task])
        scored = scored_rows(labels, scores, rows, targets, extra=config.metrics)
        if without_encoder is not None:
            scored = beside_tfidf(labels, scored, without_encoder, rows)
        found[name] = Measured(scored, scores, rows, tokens.lengths.tolist())
    return found


def _settings(config: TrainConfig, labels: LabelSpace, encoder: TextEncoder) -> ClassifierSettings:
    zero = None
    if labels.nli is not None:
        wanted = config.zero_shot
        zero = ZeroShotSettings(
            wanted.hypothesis_template,
            "shared_text" if wanted.attention == "alternate" else "ordinary",
            wanted.scorer,
            wanted.label_embedding,
        )
    return ClassifierSettings(
        labels.task,
        ACTIVATION_OF_TASK[labels.task],
        base=config.base,
        max_length=encoder.max_length,
        zero_shot=zero,
    )


def _write(
    folder: Path,
    config: TrainConfig,
    settings: ClassifierSettings,
    planned: Plan,
    figures: dict[str, Measured],
    history: list[dict[str, Any]],
) -> None:
    folder.mkdir(parents=True)
    artifact.write_settings(folder, settings)
    repeatable = config.model_copy(update={"overwrite": False, "resume": False})
    (folder / artifact.TRAIN_CONFIG).write_text(configfile.dump(repeatable), encoding="utf-8")
    splits = planned.splits
    content = report.metrics_json(figures, splits.counts) | {"base_fit": planned.fit.to_json()}
    artifact.write_json(folder / artifact.METRICS, content)
    drawn = report.write(
        folder / "report",
        splits.labels,
        figures["validation"],
        planned.lengths,
        history,
        error_rows=config.error_rows,
    )
    pairs = planned.near.listed(splits.by_name(), config.error_rows)
    report.write_near_duplicates(folder / "report", pairs)
    card = model_card(config, settings, splits, planned.fit, figures, drawn)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _rounded(model: Any, dtype: str) -> Any:
    import torch

    return model.to(torch.bfloat16).to(torch.float32) if dtype == "bfloat16" else model


def _save_weights(model: Any, folder: Path, dtype: str) -> None:
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
    for file in folder.glob("model*.safetensors"):
        file.chmod((folder / artifact.METRICS).stat().st_mode)  # safetensors lets only the owner read them


def _require_finite(model: Any) -> None:
    import torch

    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise TrainingError("the run diverged: the weights are not finite. Lower the learning rate (--lr)")


def _say_interrupted(say: Listener, trainer: Any, work: Path) -> None:
    best = trainer.state.best_model_checkpoint
    if best is not None:
        say(Warned(f"interrupted: the best checkpoint so far is {best}; --resume goes on from the last one"))
    else:
        say(Warned("interrupted before the first checkpoint: nothing was saved"))
        shutil.rmtree(work, ignore_errors=True)


def _is_finished(out: Path) -> bool:
    return (out / artifact.TRAIN_CONFIG).is_file() and (out / artifact.MANIFEST).is_file()


def _known_result(out: Path) -> TrainResult:
    folder = artifact.read(out)
    metrics = dict(folder.metrics or {})
    values = {name: entry["value"] for name, entry in metrics.get("metrics", {}).items()}
    tests = {
        name: {metric: entry["value"] for metric, entry in part["metrics"].items()}
        for name, part in metrics.get("tests", {}).items()
    }
    return TrainResult(out, values, tests, dict(metrics.get("data", {})), 0)
