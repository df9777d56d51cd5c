"""The tables of choices, by name: what `rehead choices` lists and the page offers.

Knows: which module holds which table.
Does not know: what is in a table; it is imported when it is asked for.
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
    "auxiliary": "training.auxiliary_losses",
    "optimizers": "training.optim",
    "schedules": "training.optim",
}
"""Table -> the module of `finetune` that holds it."""


def table(name: str) -> Mapping[str, Callable[..., Any]]:
    """A table of choices: name -> function."""
    found: Mapping[str, Callable[..., Any]] = getattr(import_module(f"finetune.{TABLES[name]}"), name.upper())
    return found


def tasks_of(name: str) -> dict[str, tuple[str, ...]]:
    """Which tasks each choice of a table is for; empty for tables that serve all."""
    fits = getattr(import_module(f"finetune.{TABLES[name]}"), "FITS", {})
    return {choice: fit.tasks for choice, fit in fits.items()}


def sentences(name: str) -> dict[str, str]:
    """Each choice of a table with its sentence or formula."""
    return {choice: sentence_of(function) for choice, function in table(name).items()}
