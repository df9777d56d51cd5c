"""A run's attempts: from a checkpoint of the same run or the start, and again after divergence or lack of memory.

How one attempt trains is in fitting.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.events import Info, Warned
from finetune.modeling import heads
from finetune.training import run_identity
from finetune.training.arguments import use_bfloat16
from finetune.training.batch_plan import BatchPlan, batch_plan_for
from finetune.training.callbacks import Diverged
from finetune.training.checkpoints import Note, checkpoints_of, discard_after, last_good_checkpoint, note_of
from finetune.training.fit import AttemptInputs, TrainedModel, TrainingAttempt
from finetune.training.out_of_memory import OutOfMemory, is_out_of_memory, release, require_divisible


def fit(config: TrainConfig, given: AttemptInputs) -> TrainedModel:
    """Train a base on encoded rows.

    Raises:
        FinetuneError: settings that do not go together (before any update), checkpoints of another run, a full disk,
            memory that does not suffice for one row, or a run that diverged where no suggested fix is left.
        KeyboardInterrupt: Ctrl-C, once the update is saved.
    """
    checkpoint, given, note = begin(config, given)
    while True:
        attempt = _changed(config, dict(note.changes)) if note.changes else config
        ended = _attempt(attempt, given, note, checkpoint)
        if isinstance(ended, TrainedModel):
            return ended
        checkpoint, note = _again(attempt, given, note, ended)
        discard_after(given.work, checkpoint)


def begin(config: TrainConfig, given: AttemptInputs) -> tuple[Path | None, AttemptInputs, Note]:
    """Return the checkpoint that a run goes on from, or None for the start, the batches it goes on with, and how it
    computes; the work folder then records whose it is.

    Raises:
        ConfigError: the checkpoints were made by another run; nothing is deleted.
    """
    work, say = given.work, given.say
    checkpoint, given, changed = resumed_from(config, given)
    if checkpoint is not None:
        entries = _identity(config, given)
        for sentence in run_identity.changed_versions(work):
            say(Warned(sentence))
        discard_after(work, checkpoint)
        run_identity.write(work, entries, given.regime.batches.batch_size)
        note = note_of(checkpoint)
        # a setting that was changed by hand wins over auto-recovery's
        return checkpoint, given, replace(note, changes={k: v for k, v in note.changes.items() if k not in changed})
    if config.resume:
        damaged = "no whole checkpoint" if checkpoints_of(work) else "no checkpoint"
        say(Info(f"nothing to resume: {work} holds {damaged}, so that training begins at the start"))
    shutil.rmtree(work, ignore_errors=True)
    run_identity.write(work, _identity(config, given), given.regime.batches.batch_size)
    return None, given, Note()


def resumed_from(config: TrainConfig, given: AttemptInputs) -> tuple[Path | None, AttemptInputs, dict[str, str]]:
    """Return the checkpoint that a run goes on from, or None for the start, the batches it goes on with, and what has
    changed since; nothing is written.

    Raises:
        ConfigError: the checkpoints were made by another run.
    """
    checkpoint = last_good_checkpoint(given.work) if config.resume else None
    if checkpoint is None:
        return None, given, {}
    given = replace(given, regime=_regime_of_before(config, given))
    return checkpoint, given, run_identity.require_same(given.work, _identity(config, given), config.allow_changed)


def _regime_of_before(config: TrainConfig, given: AttemptInputs) -> BatchPlan:
    """The regime of the run that made the checkpoints, where memory was measured for it."""
    rows = run_identity.batch_size_of(given.work)
    if config.optim.batch_size != "auto" or rows is None or rows == given.regime.batches.batch_size:
        return given.regime
    fixed = config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size": rows})})
    return batch_plan_for(fixed, given.train.tokens.lengths, given.train.targets, given.labels.task, None)


def _identity(config: TrainConfig, given: AttemptInputs) -> dict[str, str]:
    batches, regime = given.regime.batches, given.regime
    of = f"{batches.batch_size} rows" if batches.tokens is None else f"{batches.tokens} tokens"
    return run_identity.identity(
        config,
        given.base,
        given.labels,
        given.train,
        given.validation,
        updates=regime.updates,
        batches=f"{len(batches)} an epoch, of {of}, {regime.accumulation} an update",
        precision="bfloat16" if use_bfloat16(config.precision) else "float32",
        target=given.target,
    )


def _attempt(
    config: TrainConfig, given: AttemptInputs, note: Note, checkpoint: Path | None
) -> TrainedModel | Diverged | OutOfMemory:
    """Train once; how the attempt ended, without a reference to its tensors."""
    fitting: TrainingAttempt | None = None
    try:
        fitting = TrainingAttempt(config, given, note)
        return fitting.run(checkpoint)
    except Diverged as diverged:
        return diverged.with_traceback(None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if fitting is None:
            raise ConfigError("out of memory: the base itself does not fit. Choose a smaller one") from error
        out = OutOfMemory(fitting.trainer.rows_at_once, fitting.trainer.is_evaluating)
        require_divisible(config, fitting.trainer.model, out)
        return out


def _again(
    config: TrainConfig, given: AttemptInputs, note: Note, ended: Diverged | OutOfMemory
) -> tuple[Path | None, Note]:
    """From where, and how, a run goes on that diverged or ran out of memory.

    Raises:
        Diverged: no suggested fix is left, or none is wanted.
    """
    if isinstance(ended, OutOfMemory):
        release()
        checkpoint = last_good_checkpoint(given.work)
        note = replace(note, evaluation_due=checkpoint is not None and note_of(checkpoint).evaluation_due)
        if ended.evaluating:
            note = replace(note, evaluation_parts=2 * note.evaluation_parts)
        else:
            note = replace(note, batch_parts=2 * note.batch_parts)
        given.say(Warned(f"{_shortage(ended)}, going on from {_place(checkpoint)}"))
        return checkpoint, note
    changes = _applicable(config, ended.diagnosis.safe)
    attempts = note.attempts + 1
    if not config.gradients.auto_recover or attempts > config.gradients.attempts or not changes:
        raise ended.kept_in(given.work) from None
    # a head that begins otherwise cannot go on from weights of the old one
    fresh = any(key.startswith("model.") for key in changes)
    checkpoint = None if fresh else last_good_checkpoint(given.work)
    shown = ", ".join(f"{key}={value}" for key, value in changes.items())
    given.say(
        Warned(
            f"auto-recovery {attempts} of {config.gradients.attempts}: {ended.diagnosis.sentence} "
            f"Going on from {_place(checkpoint)} with {shown}"
        )
    )
    due = checkpoint is not None and note_of(checkpoint).evaluation_due
    return checkpoint, replace(note, changes={**note.changes, **changes}, attempts=attempts, evaluation_due=due)


def _place(checkpoint: Path | None) -> str:
    return checkpoint.name if checkpoint is not None else "the start"


def _shortage(out: OutOfMemory) -> str:
    if out.evaluating:
        return f"out of memory in an evaluation with {out.rows} rows at once: now half as many"
    return (
        f"out of memory with batches of {out.rows} rows: now {-(-out.rows // 2)} rows a batch and twice as many "
        "batches an update, so that an update has the same rows and the run as many updates"
    )


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
    return loading.build(loading.laid(config.model_dump(mode="json"), changes))
