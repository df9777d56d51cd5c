"""The identity of a run: a checkpoint is resumed only with the settings, data and base that it was made with.

Every setting counts except those in WITHOUT_EFFECT; those in SAFE may change if `--allow-changed` names them. Data are
compared by tokens and targets, a base by its files, so that both may be moved.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError
from finetune.core.labels import LabelSpace
from finetune.core.model_folder import TOKENIZER_FILES, Location, sha256
from finetune.core.target_scale import TargetScale
from finetune.modeling.kept_head import NEW_HEAD, HeadPlan
from finetune.training.checkpoints import checkpoints_of, read_mapping, write_whole
from finetune.training.optim import weight_decay_of

if TYPE_CHECKING:
    from finetune.training.examples import Examples

FORMAT = 1
"""Version of `run.json`; raise it when older checkpoints can no longer be resumed."""

RUN = "run.json"
PROCESSES = "processes"
"""Entry of the number of processes, where there are several."""

SHOWN = 60
"""Most characters of a value in a list of differences."""

SAFE: dict[str, tuple[str, ...]] = {
    "epochs": ("optim.epochs", "updates"),
    "lr": ("optim.lr", "optim.head_lr"),
    "early_stopping": ("optim.early_stopping",),
    "logging": ("report_to", "gradients.every"),
    "checkpoint": ("checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep"),
    "recovery": ("gradients.auto_recover", "gradients.attempts"),
}
"""Name that `--allow-changed` accepts -> the entries it covers; a setting's own key, such as optim.epochs, works
too."""

WITHOUT_EFFECT = (
    *(
        "out",
        "overwrite",
        "resume",
        "allow_changed",
        "models_dir",
        "license",
        "languages",
        "error_rows",
        "plots",
        "tfidf_baseline",
        "metrics",
    ),
    *("calibration", "thresholds", "coverage"),
    *("save_dtype", "optim.interpolate_base", "base", "precision", "device", "data", "model.revision"),
    "model.keep_head",
    *("zero_shot.hypothesis_template", "zero_shot.scorer", "zero_shot.label_embedding", "zero_shot.fit_on"),
)
"""Settings that do not change training, or that are compared by their results."""


def identity(
    config: TrainConfig,
    base: Location,
    labels: LabelSpace,
    train: Examples,
    validation: Examples,
    *,
    updates: int,
    batches: str,
    precision: str,
    target: TargetScale | None = None,
    head: HeadPlan = NEW_HEAD,
    processes: int = 1,
) -> dict[str, str]:
    """Return the identity of a run: entry -> value as text.

    Args:
        config: resolved, the learning rates included.
        updates, batches: updates of the whole run, and its batch plan as text.
        precision: the arithmetic that `auto` resolved to.
        target: the scale of a regression's targets, which standardized targets do not contain.
        head: what is kept of the base's head.
        processes: number of processes that train together.
    """
    entries = {"format": str(FORMAT), "base": base_fingerprint(base), "task": labels.task}
    entries["labels"] = ", ".join(labels.names)
    entries |= {"training rows": _fingerprint(train), "validation rows": _fingerprint(validation)}
    entries |= {"precision": precision, "batches": batches, "updates": str(updates)}
    if processes > 1:
        entries[PROCESSES] = str(processes)
    if target is not None:
        entries["targets"] = json.dumps(target.to_json())
    if head.rows:
        entries["kept head"] = ", ".join(head.kept)
    entries["optimizer groups"] = _groups(config)
    for key, value in _flat(config.model_dump(mode="json")).items():
        if not any(key == name or key.startswith(f"{name}.") for name in WITHOUT_EFFECT):
            entries[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    entries["optim.weight_decay"] = str(weight_decay_of(config.optim))
    return entries


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute a run."""
    return {name: version(name) for name in ("torch", "transformers", "accelerate")}


def base_fingerprint(base: Location) -> str:
    """Return a hash of a base's weights, config and tokenizer files."""
    if base.path is None:
        return base.name
    digest = hashlib.sha256()
    patterns = ("config.json", "*.safetensors", *TOKENIZER_FILES)
    for file in sorted({file for pattern in patterns for file in base.path.glob(pattern)}):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return f"sha256 {digest.hexdigest()[:16]}"


def check_allowed(names: Iterable[str]) -> None:
    """Refuse names that `--allow-changed` does not accept.

    Raises:
        ConfigError: an unknown name; lists the accepted ones.
    """
    known = [*SAFE, *(key for keys in SAFE.values() for key in keys)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"allow_changed: {name!r} cannot change on resume: {hint}choose one of {', '.join(SAFE)}")


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return entry -> `before -> now` for each entry that differs, long values shortened."""
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return {
        key: " -> ".join(_shown(values.get(key, "not set"), before, now, key) for values in (before, now))
        for key in changed
    }


def is_allowed(entry: str, names: Iterable[str], now: Mapping[str, str]) -> bool:
    """Return whether an entry may differ with these names allowed."""
    schedule = now.get("optim.schedule", "")
    if entry in SAFE["epochs"] and '"one_cycle"' in schedule:
        return False  # the number of updates is part of the schedule's state
    if entry in SAFE["lr"] and '"reduce_on_plateau"' in schedule:
        return False  # the rate is part of the schedule's state
    covered = {key for name in names for key in (name, *SAFE.get(name, ()))}
    if "optim.epochs" in covered:
        covered.add("updates")
    return entry in covered


def require_same(work: Path, now: Mapping[str, str], allowed: Iterable[str]) -> dict[str, str]:
    """Refuse to resume from checkpoints in `work` that another run made; nothing is deleted.

    Returns:
        The differences that are allowed.

    Raises:
        ConfigError: lists the differences, and which of them `--allow-changed` accepts.
    """
    stored = read_mapping(work / RUN)
    before = (stored or {}).get("run")
    restart = "Leave out --resume to start again, which replaces the checkpoints"
    if not isinstance(before, dict) or not all(isinstance(value, str) for value in before.values()):
        raise ConfigError(
            f"{work} holds checkpoints but no readable {RUN} with the run that made them (earlier versions of rehead "
            f"wrote none), so that they cannot be resumed. {restart}"
        )
    counts = [int(entries.get(PROCESSES, 1)) for entries in (before, now)]
    if counts[0] != counts[1]:
        raise ConfigError(
            f"--resume: {checkpoints_of(work)[0]} was made by {counts[0]} {_processes(counts[0])}, whose rows and "
            f"random numbers {counts[1]} {_processes(counts[1])} cannot repeat. Start {counts[0]} to resume. {restart}"
        )
    changed = differences(before, now)
    refused = {entry: text for entry, text in changed.items() if not is_allowed(entry, allowed, now)}
    if refused:
        safe = [name for name in SAFE if any(is_allowed(entry, [name], now) for entry in refused)]
        hint = f" Allowed by name: {' '.join(f'--allow-changed {name}' for name in safe)}." if safe else ""
        listed = "; ".join(f"{entry}: {text}" for entry, text in refused.items())
        raise ConfigError(
            f"--resume: {checkpoints_of(work)[0]} was made by another run. Different: {listed}. "
            f"Restore them to resume.{hint} {restart}"
        )
    return changed


def changed_versions(work: Path) -> list[str]:
    """Return a warning for each library whose version differs from that of the run in `work`."""
    made_with = (read_mapping(work / RUN) or {}).get("versions")
    changed = differences(made_with, versions()) if isinstance(made_with, dict) else {}
    return [f"{name} has changed since the checkpoint was made: {text}" for name, text in changed.items()]


def write(work: Path, entries: Mapping[str, str], batch_size: int) -> None:
    """Write the identity of the run whose checkpoints are in `work`, and its rows per batch."""
    work.mkdir(parents=True, exist_ok=True)
    write_whole(work / RUN, {"run": dict(entries), "versions": versions(), "batch_size": batch_size})


def batch_size_of(work: Path) -> int | None:
    """Return the rows per batch of the run that made the checkpoints in `work`; None where they are not recorded."""
    rows = (read_mapping(work / RUN) or {}).get("batch_size")
    return rows if isinstance(rows, int) and rows > 0 else None


def _fingerprint(rows: Examples) -> str:
    digest = hashlib.sha256()
    rows.tokens.add_to(digest)
    digest.update(f"{rows.targets.dtype} {rows.targets.shape}".encode())
    digest.update(rows.targets.tobytes())
    if rows.weights is not None:
        digest.update(rows.weights.tobytes())
    return f"{len(rows)} rows, sha256 {digest.hexdigest()[:16]}"


def _groups(config: TrainConfig) -> str:
    """Return which parts of the model share a parameter group: those with equal learning rates."""
    optim = config.optim
    lr, head = optim.lr or 0.0, optim.head_lr or optim.lr or 0.0
    return "the head's own" if head != lr else "the head shares the last layer's"


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        # a choice, such as {name: focal, gamma: 2}, is one value
        if isinstance(value, dict) and value and "name" not in value and above == "":
            flat |= _flat(value, f"{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


def _shown(text: str, before: Mapping[str, str], now: Mapping[str, str], key: str) -> str:
    """Return a value; a long one is cut to SHOWN characters around the first difference."""
    if len(text) <= SHOWN:
        return text
    other = now if text == before.get(key) else before
    pairs = zip(text, other.get(key, ""), strict=False)
    same = next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), 0)
    start = max(0, min(same - SHOWN // 3, len(text) - SHOWN))
    return f"{'…' if start else ''}{text[start : start + SHOWN]}{'…' if start + SHOWN < len(text) else ''}"
