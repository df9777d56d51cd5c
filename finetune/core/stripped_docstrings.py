"""Lets libraries that read docstrings work under `python -OO`, which strips them."""

from __future__ import annotations

import sys
from importlib import import_module
from types import FunctionType
from typing import Any, Literal


def allow_stripped_docstrings(library: Literal["transformers", "evaluate"]) -> None:
    """Have a library do without docstrings, if there are none; change nothing otherwise.

    Without this, transformers (5.23, 5.24) raises ValueError at the import of any model under `python -OO`, and
    evaluate (0.4.6) raises TypeError where it builds a metric.
    """
    if sys.flags.optimize < 2:
        return
    if library == "transformers":
        generator: Any = import_module("transformers.utils.auto_docstring")
        generator._prepare_return_docstring = lambda *args, **options: ""
        return
    module: Any = import_module("evaluate.module")
    copy = getattr(module.copyfunc, "copy", module.copyfunc)

    def documented_copy(function: Any) -> FunctionType:
        copied: FunctionType = copy(function)
        copied.__doc__ = copied.__doc__ or ""
        return copied

    documented_copy.copy = copy  # type: ignore[attr-defined]
    module.copyfunc = documented_copy
