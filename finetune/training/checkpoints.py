"""Checkpoints on disk: which are complete, what they were made with, when they are written, which are deleted.

The Trainer writes a checkpoint's files; run_identity.py compares the settings of runs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune.core.events import Listener, Saved, Warned
from finetune.core.model_folder import sha256
from finetune.training import processes

STAMP, NOTE = "stamp.json", "note.json"
"""Names of the file with the hashes of a checkpoint's files, written last, and of the file with its `Note`."""

RESUMABLE = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
RANDOM = ("rng_state.pth", "rng_state_0.pth")
"""A checkpoint holds all files of RESUMABLE, one of WEIGHTS, and one of RANDOM: of a single process, or of the first of
several; the stamp covers those of the others."""


@dataclass(frozen=True)
class Note:
    """The state of a run at a checkpoint, beyond its config and the Trainer's state.

    Attributes:
        changes: settings that auto-recovery changed, by dotted key.
        attempts: how often auto-recovery changed settings.
        batch_parts, evaluation_parts: how many parts a batch is computed in, because of too little memory.
        evaluation_due: whether the evaluation after this update is still to be done, first of all when resumed.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    batch_parts: int = 1
    evaluation_parts: int = 1
    evaluation_due: bool = False


def stamp(folder: Path, note: Note) -> None:
    """Complete a checkpoint: write its note, then the hashes of all its files."""
    write_whole(folder / NOTE, asdict(note))
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(STAMP)]
    write_whole(folder / STAMP, {file.name: sha256(file) for file in files})


def write_whole(file: Path, content: Any) -> None:
    """Write JSON atomically: a reader finds the old content or the new one, never a part."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def read_mapping(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where the file is missing, truncated or holds anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def note_of(folder: Path) -> Note:
    """Return the note of a complete checkpoint."""
    stored = read_mapping(folder / NOTE) or {}
    return Note(**{key: value for key, value in stored.items() if key in Note.__dataclass_fields__})


def checkpoints_of(work: Path) -> list[Path]:
    """Return the folders of checkpoints, complete or not, the newest first."""
    folders = [path for path in work.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal() and path.is_dir()]
    return sorted(folders, key=_update, reverse=True)


def last_good_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint whose files are all present and unchanged, or None."""
    return next((folder for folder in checkpoints_of(work) if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Return whether a checkpoint was completed and none of its files has changed since."""
    hashes = read_mapping(folder / STAMP)
    if hashes is None or not all(isinstance(known, str) for known in hashes.values()):
        return False
    if not all(name in hashes for name in RESUMABLE):
        return False
    if not all(any(name in hashes for name in names) for names in (WEIGHTS, RANDOM)):
        return False
    try:
        # a damaged stamp may hold any path
        return all(Path(name).name == name and sha256(folder / name) == known for name, known in hashes.items())
    except (OSError, ValueError):
        return False


def discard_after(work: Path, checkpoint: Path | None) -> None:
    """Delete the checkpoints after `checkpoint`; all of them where it is None."""
    for folder in checkpoints_of(work):
        if checkpoint is None or _update(folder) > _update(checkpoint):
            shutil.rmtree(folder, ignore_errors=True)


def prune(work: Path, keep: int, best: str | None) -> None:
    """Delete all checkpoints but the newest `keep` and the best one."""
    for folder in checkpoints_of(work)[keep:]:
        if best is None or folder.name != Path(best).name:
            shutil.rmtree(folder, ignore_errors=True)


def best_loss(state: Any) -> float:
    """Return the validation loss of the best checkpoint of a Trainer's state, -inf where it was not measured."""
    losses = [
        entry["eval_loss"]
        for entry in state.log_history
        if entry.get("step") == state.best_global_step and "eval_loss" in entry
    ]
    return float(losses[-1]) if losses else -math.inf


def evaluations_without_gain(history: list[dict[str, Any]], metric: str, *, greater_is_better: bool = True) -> int:
    """Return the number of evaluations since the best one.

    Args:
        history: the Trainer's log.
        metric: name of the metric in the log.
    """
    best, count = -math.inf, 0
    for entry in history:
        if metric in entry:
            score = entry[metric] if greater_is_better else -entry[metric]
            count = 0 if score > best else count + 1
            best = score if score > best else best  # never for NaN
    return count


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


def _update(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
