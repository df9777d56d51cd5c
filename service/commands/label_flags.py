"""The option --labels, of every command that takes labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

F = Callable[..., Any]


def labels_option(help: str, *, required: bool = False) -> Callable[[F], F]:
    """Return the option --labels: one value, with commas between labels; a second one is refused."""
    return click.option("--labels", multiple=True, required=required, callback=_once, help=help)


def _once(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    if len(values) > 1:
        raise click.UsageError(
            f"--labels is given {len(values)} times, and takes all labels at once: --labels {','.join(values)}"
        )
    return values[0] if values else None
