"""A run's attempts: from the start or a checkpoint of the same run, and again after divergence or lack of memory.

How one attempt trains is in fit.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.events import Info, Warned
from finetune.modeling import heads
from finetune.training import processes, run_identity
from finetune.training.arguments import use_bfloat16
from finetune.training.batch_plan import BatchPlan, batch_plan_for
from finetune.training.callbacks import Diverged
from finetune.training.checkpoints import Note, checkpoints_of, discard_after, last_good_checkpoint, note_of
from finetune.training.fit import AttemptInputs, TrainedModel, TrainingAttempt
from finetune.training.out_of_memory import OutOfMemory, is_out_of_memory, release, require_divisible


def fit(config: TrainConfig, inputs: AttemptInputs) -> TrainedModel:
    """Train a base on encoded rows and return the trained model.

    Raises:
        FinetuneError: settings that contradict each other (before any update), checkpoints of another run, a full disk,
            too little memory for one row, or a run that diverged with no suggested fix left.
        KeyboardInterrupt: Ctrl-C, once the update is saved.
    """
    checkpoint, inputs, note = begin(config, inputs)
    while True:
        attempt = _changed(config, dict(note.changes)) if note.changes else config
        outcome = _attempt(attempt, inputs, note, checkpoint)
        if isinstance(outcome, TrainedModel):
            return outcome
        checkpoint, note = _again(attempt, inputs, note, outcome)
        processes.wait()
        processes.on_main(partial(discard_after, inputs.work, checkpoint))


def begin(config: TrainConfig, inputs: AttemptInputs) -> tuple[Path | None, AttemptInputs, Note]:
    """Return the checkpoint to resume from (None: the start), the inputs with the batch plan to go on with, and the
    checkpoint's note; record in the work folder which run it belongs to.

    Raises:
        ConfigError: the checkpoints were made by another run; nothing is deleted.
    """
    work, say = inputs.work, inputs.say
    checkpoint, inputs, changed = resumed_from(config, inputs)
    entries, rows = _identity(config, inputs), inputs.batch_plan.batches.batch_size
    processes.require_equal("run", entries | run_identity.versions() | {"checkpoint": _place(checkpoint)})
    if checkpoint is not None:
        for sentence in run_identity.changed_versions(work):
            say(Warned(sentence))
        note = note_of(checkpoint)
        processes.on_main(partial(_go_on, work, checkpoint, entries, rows))
        # a setting that was changed by hand wins over auto-recovery's
        return checkpoint, inputs, replace(note, changes={k: v for k, v in note.changes.items() if k not in changed})
    if config.resume:
        missing = "no complete checkpoint" if checkpoints_of(work) else "no checkpoint"
        say(Info(f"nothing to resume: {work} holds {missing}; training begins at the start"))
    processes.on_main(partial(_start_again, work, entries, rows))
    return None, inputs, Note()


def _go_on(work: Path, checkpoint: Path, entries: dict[str, str], rows: int) -> None:
    discard_after(work, checkpoint)
    run_identity.write(work, entries, rows)


def _start_again(work: Path, entries: dict[str, str], rows: int) -> None:
    shutil.rmtree(work, ignore_errors=True)
    run_identity.write(work, entries, rows)


def resumed_from(config: TrainConfig, inputs: AttemptInputs) -> tuple[Path | None, AttemptInputs, dict[str, str]]:
    """Return the checkpoint to resume from (None: the start), the inputs with the batch plan to go on with, and the
    settings that differ; nothing is written.

    Raises:
        ConfigError: the checkpoints were made by another run.
    """
    checkpoint = last_good_checkpoint(inputs.work) if config.resume else None
    if checkpoint is None:
        return None, inputs, {}
    inputs = replace(inputs, batch_plan=_earlier_batch_plan(config, inputs))
    return checkpoint, inputs, run_identity.require_same(inputs.work, _identity(config, inputs), config.allow_changed)


def _earlier_batch_plan(config: TrainConfig, inputs: AttemptInputs) -> BatchPlan:
    """Return the batch plan of the run that made the checkpoints: free memory may have changed since."""
    rows = run_identity.batch_size_of(inputs.work)
    if config.optim.batch_size != "auto" or rows is None or rows == inputs.batch_plan.batches.batch_size:
        return inputs.batch_plan
    fixed = config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size": rows})})
    train, task = inputs.train, inputs.objective.labels.task
    return batch_plan_for(fixed, train.tokens.lengths, train.targets, task, None)


def _identity(config: TrainConfig, inputs: AttemptInputs) -> dict[str, str]:
    plan, objective = inputs.batch_plan, inputs.objective
    batches = plan.batches
    size = f"{batches.batch_size} rows" if batches.tokens is None else f"{batches.tokens} tokens"
    return run_identity.identity(
        config,
        inputs.base,
        objective.labels,
        inputs.train,
        inputs.validation,
        updates=plan.updates,
        batches=f"{len(batches)} an epoch, of {size}, {plan.accumulation} an update",
        precision="bfloat16" if use_bfloat16(config.precision, config.device) else "float32",
        target=objective.target_scale,
        head=inputs.head,
        processes=batches.processes,
    )


def _attempt(
    config: TrainConfig, inputs: AttemptInputs, note: Note, checkpoint: Path | None
) -> TrainedModel | Diverged | OutOfMemory:
    """Train once; return the model, or why there is none, without a reference to the attempt's tensors."""
    attempt: TrainingAttempt | None = None
    try:
        attempt = TrainingAttempt(config, inputs, note)
        return attempt.run(checkpoint)
    except Diverged as diverged:
        return diverged.with_traceback(None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if attempt is None:
            raise ConfigError(
                "out of memory: the base itself does not fit. Choose a smaller one with --base"
            ) from error
        if processes.count() > 1:  # the others are in the middle of this update, and cannot begin it again
            raise ConfigError(
                f"process {processes.rank()} is out of memory with {attempt.trainer.rows_at_once} rows at once, and "
                "batches are not halved with several processes: lower optim.batch_size, and raise optim.accumulation"
            ) from error
        out = OutOfMemory(attempt.trainer.rows_at_once, attempt.trainer.is_evaluating)
        require_divisible(config, attempt.trainer.model, out)
        return out


def _again(
    config: TrainConfig, inputs: AttemptInputs, note: Note, outcome: Diverged | OutOfMemory
) -> tuple[Path | None, Note]:
    """Return the checkpoint (None: the start) and the note with which to go on after divergence or lack of memory.

    Raises:
        Diverged: no suggested fix is left, or auto-recovery is off.
    """
    if isinstance(outcome, OutOfMemory):
        release()
        checkpoint = last_good_checkpoint(inputs.work)
        note = replace(note, evaluation_due=checkpoint is not None and note_of(checkpoint).evaluation_due)
        if outcome.evaluating:
            note = replace(note, evaluation_parts=2 * note.evaluation_parts)
        else:
            note = replace(note, batch_parts=2 * note.batch_parts)
        inputs.say(Warned(f"{_shortage(outcome)}, going on from {_place(checkpoint)}"))
        return checkpoint, note
    changes = _applicable(config, outcome.diagnosis.safe)
    attempts = note.attempts + 1
    if not config.gradients.auto_recover or attempts > config.gradients.attempts or not changes:
        raise outcome.kept_in(inputs.work) from None
    # the checkpoint's weights do not fit another head, or hold the old initialization
    fresh = any(key.startswith("model.") for key in changes)
    checkpoint = None if fresh else last_good_checkpoint(inputs.work)
    shown = ", ".join(f"{key}={value}" for key, value in changes.items())
    inputs.say(
        Warned(
            f"auto-recovery {attempts} of {config.gradients.attempts}: {outcome.diagnosis.sentence} "
            f"Continuing from {_place(checkpoint)} with {shown}"
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
