"""The exception tree of the training side.

    FinetuneError
    ├── ConfigError       a setting is wrong: names the key and a value that works
    ├── DataError         the table is wrong: names the file, the row and the column
    ├── CheckpointError   a base or model folder is missing, unreadable or incomplete
    ├── StorageError      the disk is full: states the bytes needed and free
    ├── TrainingError     the run itself failed, for example by diverging
    └── MissingExtra      an optional dependency is not installed: names the install line

Every message is one sentence or two that a person can act on; the command line prints it without a traceback.
"""

from __future__ import annotations


class FinetuneError(Exception):
    """Base of every error that is shown to a user without a traceback."""

    exit_code = 2


class ConfigError(FinetuneError):
    """A setting is unknown, ill-typed or does not go with another one."""


class DataError(FinetuneError):
    """The data cannot be used; `file`, `row` (1-based, the header not counted) and `column` say where."""

    def __init__(
        self, message: str, *, file: str | None = None, row: int | None = None, column: str | None = None
    ) -> None:
        where = ", ".join(
            part
            for part in (
                str(file) if file is not None else "",
                f"row {row}" if row is not None else "",
                f"column {column!r}" if column is not None else "",
            )
            if part
        )
        super().__init__(f"{where}: {message}" if where else message)
        self.file, self.row, self.column = file, row, column


class CheckpointError(FinetuneError):
    """A base model or a model folder is missing, unreadable, incomplete or of a kind that is refused."""


class TrainingError(FinetuneError):
    """The run failed while training: the loss or the weights stopped being finite."""

    exit_code = 3


class StorageError(FinetuneError):
    """The disk is full, or a file would exceed a limit or quota."""


class MissingExtra(FinetuneError):
    """An optional dependency is needed for what was asked."""
