"""The tables of choices by name, for `rehead choices`, the web UI and docs/settings.md.

A table's module is imported when the table is read, since most of them need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from finetune.core.registry import sentence_of

TABLES = {
    "losses": "training.losses",
    "heads": "modeling.heads",
    "poolings": "modeling.poolings",
    "activations": "modeling.activations",
    "initializers": "modeling.initializers",
    "metrics": "evaluation.metrics",
    "thresholds": "evaluation.thresholds",
    "few_shot": "training.few_shot",
    "auxiliary": "training.auxiliary_losses",
    "optimizers": "training.optim",
    "schedules": "training.optim",
}
"""Table -> the module of `finetune` that holds it."""


def table(name: str) -> Mapping[str, Callable[..., Any]]:
    """Return a table of choices: name -> function."""
    functions: Mapping[str, Callable[..., Any]] = getattr(import_module(f"finetune.{TABLES[name]}"), name.upper())
    return functions


def tasks_of(name: str) -> dict[str, tuple[str, ...]]:
    """Return the tasks that each choice of a table supports; empty for tables whose choices support all tasks."""
    fits = getattr(import_module(f"finetune.{TABLES[name]}"), "FITS", {})
    return {choice: fit.tasks for choice, fit in fits.items()}


def sentences(name: str) -> dict[str, str]:
    """Return the sentence or formula of each choice of a table."""
    return {choice: sentence_of(function) for choice, function in table(name).items()}
