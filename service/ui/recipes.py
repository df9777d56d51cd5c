"""A training run as a command, a YAML file or Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from finetune.config import loading

FLAGS = {
    "base": "--base",
    "data.text": "--text",
    "data.label": "--label",
    "data.text_pair": "--text-pair",
    "data.task": "--task",
    "data.encoding": "--encoding",
    "data.separator": "--separator",
    "data.sheet": "--sheet",
    "data.weight": "--weight",
    "optim.epochs": "--epochs",
    "optim.batch_size": "--batch-size",
    "optim.lr": "--lr",
    "loss.name": "--loss",
    "seed": "--seed",
    "out": "--out",
}


def command(table: str, settings: Mapping[str, Any]) -> str:
    """Return the run as a `rehead finetune` command."""
    parts = [f"rehead finetune {shlex.quote(table)}"]
    for key, value in settings.items():
        if key == "data.label" and isinstance(value, list | tuple):
            parts += [f"--label {shlex.quote(str(column))}" for column in value]
            continue
        parts.append(
            f"{FLAGS[key]} {shlex.quote(str(value))}" if key in FLAGS else f"--set {shlex.quote(f'{key}={value}')}"
        )
    return " \\\n  ".join(parts)


def as_yaml(table: str, settings: Mapping[str, Any]) -> str:
    """Return the run as a file for `rehead finetune --config`."""
    return yaml.safe_dump(_content(table, settings), sort_keys=False, allow_unicode=True)


def as_python(table: str, settings: Mapping[str, Any]) -> str:
    """Return the run as a Python program."""
    arguments = ",\n".join(f"    {key}={value!r}" for key, value in _content(table, settings).items())
    imported = "from finetune import TrainConfig, train"
    return f"{imported}\n\nresult = train(TrainConfig(\n{arguments},\n))\nprint(result.metrics)"


def _content(table: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return loading.laid({}, {**settings, "data.train": table})


WRITERS = {"command": ("shell", command), "YAML": ("yaml", as_yaml), "Python": ("python", as_python)}
"""Format -> the language of its syntax highlighting, and its writer."""
