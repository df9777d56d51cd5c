"""YAML files and `key=value` overrides to a TrainConfig, and back.

Knows: how a wrong key or value becomes one sentence that names it.
Does not know: what the settings do.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError

RENAMED = {
    "initialiser": "initializer",
    "average": "ema_decay",
    "remedy": "auto_recover",
    "share_columns": "soft_label_columns",
    "keep_out": "holdout",
}
"""Keys of rehead 0.1.0 -> what they are called now."""

MEANT = {
    "adapter": "model.lora",
    "batch_size": "optim.batch_size",
    "bf16": "precision",
    "class_weight": "class_weights",
    "early_stopping": "optim.early_stopping",
    "early_stopping_patience": "optim.early_stopping",
    "epochs": "optim.epochs",
    "eval_steps": "checkpoint.every_steps",
    "fp16": "precision",
    "freeze": "model.freeze",
    "gradient_accumulation_steps": "optim.accumulation",
    "head": "model.head",
    "hub_model_id": "base",
    "id2label": "data.label_names",
    "label_smoothing_factor": "loss.label_smoothing",
    "learning_rate": "optim.lr",
    "lora": "model.lora",
    "lr": "optim.lr",
    "lr_scheduler_type": "optim.schedule",
    "max_length": "data.max_length",
    "max_seq_length": "data.max_length",
    "metric_for_best_model": "checkpoint.best_by",
    "model_name_or_path": "base",
    "num_epochs": "optim.epochs",
    "num_train_epochs": "optim.epochs",
    "optimizer": "optim.optimizer",
    "output_dir": "out",
    "patience": "optim.early_stopping",
    "per_device_train_batch_size": "optim.batch_size",
    "random_state": "seed",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep",
    "scheduler": "optim.schedule",
    "test_size": "data.validation_size",
    "train_batch_size": "optim.batch_size",
    "train_file": "data.train",
    "validation_file": "data.validation",
    "validation_split": "data.validation_size",
    "warmup_ratio": "optim.warmup",
    "weight_decay": "optim.weight_decay",
}
"""Names that other libraries give a setting, and those of ours without their part -> the setting here."""


def load(file: str | Path | None = None, overrides: Iterable[str] = (), **settings: Any) -> TrainConfig:
    """The configuration of `file`, with `settings` (dotted keys, None skipped) and then `overrides` laid over it.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value of the wrong kind; names the key.
    """
    return build(content_of(file, overrides, **settings), str(file) if file is not None else None)


def content_of(file: str | Path | None, overrides: Iterable[str] = (), **settings: Any) -> dict[str, Any]:
    """What `load` makes a configuration of, as plain dicts."""
    content = read_yaml(file) if file is not None else {}
    for key, value in settings.items():
        if value is not None:
            _lay(content, key.replace("__", "."), value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} should read KEY=VALUE, for example --set optim.lr=3e-5")
        _lay(content, key.strip(), _scalar(text))
    return content


def build(content: Mapping[str, Any], where: str | None = None) -> TrainConfig:
    """A TrainConfig from plain dicts, with pydantic's complaints turned into one sentence."""
    try:
        return TrainConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(_sentence(error, where)) from error


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: there is no such config file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} should hold keys and values, for example 'base: topics'")
    return content


def dump(config: TrainConfig, *, defaults: bool = True) -> str:
    """Return the configuration as YAML that `load` reads back to an equal one.

    Args:
        defaults: include settings that have their default value.
    """
    import yaml

    content = config.model_dump(mode="json", exclude_defaults=not defaults)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def laid(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content with these dotted keys set."""
    found = copy.deepcopy(dict(content))
    for key, value in changes.items():
        _lay(found, key, value)
    return found


def _lay(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.get(parent)
        if isinstance(inner, str):  # `loss: focal` in the file, `loss.gamma` on the command line
            inner = {"name": inner}
        content[parent] = dict(inner) if isinstance(inner, dict) else {}
        content = content[parent]
    content[last] = value


def number(value: Any) -> float | int | None:
    """A number as YAML gives it, where 1e-5 is a word; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _scalar(text: str) -> Any:
    import yaml

    if len(text) == 1 and text in "|,;:>&*!%@":  # a separator; YAML reads none of these as itself
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 3e-5 as a string
        except ValueError:
            return value
    return value


def _sentence(error: ValidationError, where: str | None) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown setting {key!r}: {suggestion(path)}"
    if first["type"] == "missing":
        flag = {"base": " (--base)", "out": " (--out)"}.get(key, "")
        return f"{prefix}setting {key!r}{flag} is missing"
    message = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict | BaseModel) else f" is {first['input']!r}"
    return f"{prefix}setting {key!r}{value}: {message[0].lower()}{message[1:]}"


def suggestion(path: list[str]) -> str:
    """Return what may have been meant by an unknown key: renamed, called otherwise elsewhere, misspelled, or none."""
    *parents, last = path
    known = _fields_at(parents)
    if last in RENAMED and RENAMED[last] in known:
        return f"it is called {'.'.join([*parents, RENAMED[last]])!r} now"
    if last in MEANT and MEANT[last] != ".".join(path):
        return f"did you mean {MEANT[last]!r}?"
    close = difflib.get_close_matches(last, known, n=1)
    if close:
        return f"did you mean {'.'.join([*parents, close[0]])!r}?"
    return f"known keys: {', '.join(known)}"


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config that rehead 0.1.0 recorded, with the keys and values of today."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                RENAMED.get(key, key): _recovers(inner) if key == "remedy" else renamed(inner)
                for key, inner in value.items()
            }
        return [renamed(item) for item in value] if isinstance(value, list) else value

    return {key: renamed(value) for key, value in content.items()}


def _recovers(remedy: Any) -> bool:
    return bool(remedy == "auto")


def _fields_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = TrainConfig
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field is not None else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
