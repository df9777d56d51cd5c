"""Checkpoints on disk: which are complete, what they were made with, which are deleted.

The Trainer writes a checkpoint's files; checkpoint_callbacks.py says when. run_identity.py compares settings of runs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.core.model_folder import sha256

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


def _update(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
