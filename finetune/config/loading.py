"""YAML files and `key=value` overrides to a TrainConfig, and back."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from finetune.config.renamed import RENAMED
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError

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
"""Names of settings in other libraries, and names of ours without their section -> the setting."""


ALSO_ACCEPTED = {"optim.learning_rate": "optim.lr"}
"""Other accepted spellings of a setting -> the setting, under which it is recorded."""


def load(file: str | Path | None = None, overrides: Iterable[str] = (), **settings: Any) -> TrainConfig:
    """Return the configuration of `file`, changed by `settings` and then by `overrides`.

    Args:
        overrides: texts `KEY=VALUE` with dotted keys and YAML values.
        settings: values by dotted key, with `__` for the dot; None leaves a setting as it is.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value of the wrong type; names the key.
    """
    return build(content_of(file, overrides, **settings), str(file) if file is not None else None)


def content_of(file: str | Path | None, overrides: Iterable[str] = (), **settings: Any) -> dict[str, Any]:
    """Return the plain dicts from which `load` builds a configuration."""
    content = _one_spelling(read_yaml(file)) if file is not None else {}
    for key, value in settings.items():
        if value is not None:
            _set(content, key.replace("__", "."), value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} should read KEY=VALUE, for example --set optim.lr=3e-5")
        _set(content, key.strip(), _scalar(text))
    return content


def build(content: Mapping[str, Any], where: str | None = None) -> TrainConfig:
    """Return the TrainConfig of plain dicts.

    Args:
        where: the file that they were read from, for messages.

    Raises:
        ConfigError: an unknown key or a wrong value, in one sentence.
    """
    try:
        return TrainConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(sentence_of(error, where)) from error


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: there is no such file, it is not YAML, or not a mapping.
    """
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
    """Return a copy of the content with the values of `changes`, whose keys are dotted."""
    changed = copy.deepcopy(dict(content))
    for key, value in changes.items():
        _set(changed, key, value)
    return changed


def number(value: Any) -> float | int | None:
    """Return a number as YAML gives it, also one such as 1e-5, which YAML 1.1 reads as text; None for other values."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def suggestion(path: list[str], model: type[BaseModel] = TrainConfig) -> str:
    """Return a hint for an unknown key of `model`: its present name, our name for it, the nearest one, or all names."""
    *parents, last = path
    known = list(_section_at(parents, model).model_fields)
    if model is not TrainConfig:
        nearest = difflib.get_close_matches(last, known, n=1)
        return f"did you mean {nearest[0]!r}?" if nearest else f"known settings here: {', '.join(known)}"
    if last in RENAMED and RENAMED[last] in known:
        return f"it is called {'.'.join([*parents, RENAMED[last]])!r} now"
    if last in MEANT and MEANT[last] != ".".join(path):
        return f"did you mean {MEANT[last]!r}?"
    for close in difflib.get_close_matches(last, [*known, *MEANT], n=1):
        setting = ".".join([*parents, close]) if close in known else MEANT[close]
        return f"did you mean {setting!r}?"
    return f"known settings here: {', '.join(known)}"


def _one_spelling(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with ALSO_ACCEPTED keys renamed; where both spellings are there, TrainConfig rejects them."""
    content = copy.deepcopy(content)
    for spelling, key in ALSO_ACCEPTED.items():
        *parents, last = spelling.split(".")
        section: Any = content
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        name = key.rpartition(".")[2]
        if isinstance(section, dict) and last in section and name not in section:
            section[name] = section.pop(last)
    return content


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = ALSO_ACCEPTED.get(key, key).split(".")
    for parent in parents:
        inner = content.get(parent)
        if isinstance(inner, str):  # `loss: focal` in the file, `loss.gamma` on the command line
            inner = {"name": inner}
        content[parent] = dict(inner) if isinstance(inner, dict) else {}
        content = content[parent]
    content[last] = value


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


def sentence_of(error: ValidationError, where: str | None, model: type[BaseModel] = TrainConfig) -> str:
    """Return a validation error in one sentence.

    Args:
        where: the file that the settings were read from.
        model: what they were validated as.
    """
    first = error.errors()[0]
    # pydantic adds the type that it tried where a setting has several
    path = [part for part in map(str, first["loc"]) if not part.startswith(("literal[", "dict["))]
    key = ".".join(path)
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown setting {key!r}: {suggestion(path, model)}"
    if first["type"] == "missing":
        given_as = {"base": " (--base)", "out": " (--out)", "labels": " (--labels)", "texts": " (TEXTS)"}.get(key, "")
        return f"{prefix}setting {key!r}{given_as} is missing"
    message = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict | BaseModel) else f" is {first['input']!r}"
    return f"{prefix}setting {key!r}{value}: {message[0].lower()}{message[1:]}"


def _section_at(path: list[str], model: type[BaseModel]) -> type[BaseModel]:
    """Return the section that a dotted key leads to; positions in lists and names of test tables are passed over."""
    section = model
    for part in path:
        field = section.model_fields.get(part)
        section = (_section_in(field.annotation) if field is not None else None) or section
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
