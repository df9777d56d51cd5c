"""What makes a run the same run: a checkpoint goes on only with what it was made with.

Every setting counts unless it is named in WITHOUT_EFFECT; those in SAFE may change where that is allowed by name. Data
is compared by its tokens and targets, a base by its files, so that both may lie elsewhere.
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
from finetune.training.checkpoints import checkpoints_of, read_mapping, write_whole
from finetune.training.optim import weight_decay_of

if TYPE_CHECKING:
    from finetune.training.trainer import Examples

FORMAT = 1
"""Version of `run.json`, to be raised where checkpoints of before cannot be trained on."""

RUN = "run.json"
SHOWN = 60
"""Characters of a value in a list of differences."""

SAFE: dict[str, tuple[str, ...]] = {
    "epochs": ("optim.epochs", "updates"),
    "lr": ("optim.lr", "optim.head_lr"),
    "early_stopping": ("optim.early_stopping",),
    "logging": ("report_to", "gradients.every"),
    "checkpoint": ("checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep"),
    "recovery": ("gradients.auto_recover", "gradients.attempts"),
}
"""What `--allow-changed` takes, and the entries it covers; a setting's own key, such as optim.epochs, is taken too."""

WITHOUT_EFFECT = (
    *(
        "out",
        "overwrite",
        "resume",
        "allow_changed",
        "models_dir",
        "license",
        "error_rows",
        "plots",
        "tfidf_baseline",
        "metrics",
    ),
    *("save_dtype", "base", "precision", "data", "model.revision"),
    *("zero_shot.hypothesis_template", "zero_shot.scorer", "zero_shot.label_embedding", "zero_shot.fit_on"),
)
"""Settings that do not change training, or that are compared by what comes of them."""


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
) -> dict[str, str]:
    """Return what a run's checkpoints belong to: entry -> value in words.

    Args:
        config: resolved, the learning rates included.
        updates, batches: updates of the whole run, and its batch plan in words.
        precision: the arithmetic that `auto` came to.
        target: the scale of a regression's targets, which the standardized ones no longer show.
    """
    entries = {"format": str(FORMAT), "base": base_fingerprint(base), "task": labels.task}
    entries["labels"] = ", ".join(labels.names)
    entries |= {"training rows": _fingerprint(train), "validation rows": _fingerprint(validation)}
    entries |= {"precision": precision, "batches": batches, "updates": str(updates)}
    if target is not None:
        entries["targets"] = json.dumps(target.to_json())
    entries["optimizer groups"] = _groups(config)
    for key, value in _flat(config.model_dump(mode="json")).items():
        if not any(key == name or key.startswith(f"{name}.") for name in WITHOUT_EFFECT):
            entries[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    entries["optim.weight_decay"] = str(weight_decay_of(config.optim))
    return entries


def versions() -> dict[str, str]:
    """Return the versions of what computes a run."""
    return {name: version(name) for name in ("torch", "transformers", "accelerate")}


def base_fingerprint(base: Location) -> str:
    """Return the hash of a base's weights, config and tokenizer files, wherever they lie."""
    if base.path is None:
        return base.name
    digest = hashlib.sha256()
    patterns = ("config.json", "*.safetensors", *TOKENIZER_FILES)
    for file in sorted({file for pattern in patterns for file in base.path.glob(pattern)}):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return f"sha256 {digest.hexdigest()[:16]}"


def check_allowed(names: Iterable[str]) -> None:
    """Refuse names that `--allow-changed` cannot take.

    Raises:
        ConfigError: says which can be.
    """
    known = [*SAFE, *(key for keys in SAFE.values() for key in keys)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"allow_changed {name!r}: {hint}A checkpoint goes on only with what it was made with, but for "
                f"{', '.join(SAFE)}"
            )


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return entry -> `before -> now` for each entry that differs, long values shortened."""
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return {
        key: " -> ".join(_shown(one.get(key, "not set"), before, now, key) for one in (before, now)) for key in changed
    }


def is_allowed(entry: str, names: Iterable[str], now: Mapping[str, str]) -> bool:
    """Return whether an entry may differ, with these names allowed."""
    schedule = now.get("optim.schedule", "")
    if entry in SAFE["epochs"] and '"one_cycle"' in schedule:
        return False  # its length is part of the schedule's state
    if entry in SAFE["lr"] and '"reduce_on_plateau"' in schedule:
        return False  # so is the rate
    covered = {key for name in names for key in (name, *SAFE.get(name, ()))}
    if "optim.epochs" in covered:
        covered.add("updates")
    return entry in covered


def require_same(work: Path, now: Mapping[str, str], allowed: Iterable[str]) -> dict[str, str]:
    """Refuse to resume from checkpoints in `work` that another run made; nothing is deleted.

    Returns:
        The differences that are allowed.

    Raises:
        ConfigError: lists the differences, and which of them `--allow-changed` lets pass.
    """
    stored = read_mapping(work / RUN)
    before = (stored or {}).get("run")
    again = "Leave out --resume to start again, which replaces the checkpoints"
    if not isinstance(before, dict) or not all(isinstance(value, str) for value in before.values()):
        raise ConfigError(
            f"{work} holds checkpoints and no readable {RUN} that says which run made them (an earlier version of "
            f"rehead wrote none), so that they cannot be resumed from. {again}"
        )
    found = differences(before, now)
    refused = {entry: text for entry, text in found.items() if not is_allowed(entry, allowed, now)}
    if refused:
        safe = [name for name in SAFE if any(is_allowed(entry, [name], now) for entry in refused)]
        hint = f" Allowed by name: {' '.join(f'--allow-changed {name}' for name in safe)}." if safe else ""
        listed = "; ".join(f"{entry}: {text}" for entry, text in refused.items())
        raise ConfigError(
            f"--resume: {checkpoints_of(work)[0]} was made by another run. Different: {listed}. "
            f"Set them back to go on.{hint} {again}"
        )
    return found


def changed_versions(work: Path) -> list[str]:
    """Return a warning for each library whose version is another than that of the run in `work`."""
    made_with = (read_mapping(work / RUN) or {}).get("versions")
    changed = differences(made_with, versions()) if isinstance(made_with, dict) else {}
    return [f"{name} has changed since the checkpoint was made: {text}" for name, text in changed.items()]


def write(work: Path, entries: Mapping[str, str], batch_size: int) -> None:
    """Record which run the checkpoints in `work` belong to, and its rows in a batch."""
    work.mkdir(parents=True, exist_ok=True)
    write_whole(work / RUN, {"run": dict(entries), "versions": versions(), "batch_size": batch_size})


def batch_size_of(work: Path) -> int | None:
    """Return the rows in a batch of the run that made the checkpoints in `work`; None where it is not recorded."""
    found = (read_mapping(work / RUN) or {}).get("batch_size")
    return found if isinstance(found, int) and found > 0 else None


def _fingerprint(rows: Examples) -> str:
    digest = hashlib.sha256()
    rows.tokens.add_to(digest)
    digest.update(f"{rows.targets.dtype} {rows.targets.shape}".encode())
    digest.update(rows.targets.tobytes())
    return f"{len(rows)} rows, sha256 {digest.hexdigest()[:16]}"


def _groups(config: TrainConfig) -> str:
    """Which parts of the model share a parameter group: those whose learning rates are equal."""
    optim = config.optim
    lr, head = optim.lr or 0.0, optim.head_lr or optim.lr or 0.0
    return "the head's own" if head != lr else "the head shares the last layer's"


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        # a choice, such as {name: focal, gamma: 2}, is one value
        if isinstance(value, dict) and value and "name" not in value and above == "":
            found |= _flat(value, f"{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _shown(text: str, before: Mapping[str, str], now: Mapping[str, str], key: str) -> str:
    """A value, cut where it is long, from shortly before the place where the two differ."""
    if len(text) <= SHOWN:
        return text
    other = now if text == before.get(key) else before
    pairs = zip(text, other.get(key, ""), strict=False)
    same = next((place for place, (one, two) in enumerate(pairs) if one != two), 0)
    start = max(0, min(same - SHOWN // 3, len(text) - SHOWN))
    return f"{'…' if start else ''}{text[start : start + SHOWN]}{'…' if start + SHOWN < len(text) else ''}"
