"""The flags of every command that reads a table file: `--encoding`, `--separator`, `--no-header`, `--sheet`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from finetune.core.tables.options import TableOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def reading_flags(command: Command) -> Command:
    """Add the flags to a click command.

    Its function takes `encoding`, `separator`, `header` and `sheet`, each None where the flag is not given.
    """
    options = (
        click.option(
            "--encoding",
            callback=lambda context, flag, value: TableOptions(encoding=value).encoding,
            help="Encoding of the table file, for example cp1251; detected if not given.",
        ),
        click.option(
            "--separator",
            callback=lambda context, flag, value: TableOptions(separator=value).separator,
            help="Character between cells, or tab; detected if not given.",
        ),
        click.option(
            "--no-header",
            "header",
            is_flag=True,
            callback=lambda context, flag, value: False if value else None,
            help="The first row holds data; the columns are named column_1, column_2 ...",
        ),
        click.option("--sheet", help="Sheet of an Excel file, by name or number from 1; the first if not given."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def passed(**flags: Any) -> dict[str, Any]:
    """Return the flags that are not None, of `encoding`, `separator`, `header` and `sheet`."""
    return {name: value for name, value in flags.items() if value is not None}
