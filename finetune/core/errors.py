"""The exceptions of training, and the base of all exceptions.

    ReheadError           any error that is meant for a user; ServiceError (service/errors.py) is the other branch
    └── FinetuneError
        ├── ConfigError       a setting is invalid
        ├── DataError         a table or a cell is invalid
        ├── CheckpointError   a base or a model folder cannot be used
        ├── StorageError      the disk is full
        ├── TrainingError     training failed, for example by diverging
        └── MissingExtra      an optional dependency is not installed

A message says in one or two sentences what is wrong, where, and what to do; the command line prints it without a
traceback.
"""

from __future__ import annotations


class ReheadError(Exception):
    """Base of every error that is shown to a user without a traceback.

    Attributes:
        is_own: whether this process alone reports it, of several that train together.
    """

    exit_code = 1
    is_own = False


class FinetuneError(ReheadError):
    """Base of the errors of training: settings, data, base models, and the run itself."""

    exit_code = 2


class ConfigError(FinetuneError):
    """A setting is unknown, has a wrong value, or contradicts another setting."""


class DataError(FinetuneError):
    """The data cannot be used.

    Attributes:
        file, row, column: where, as far as it is known; rows are counted from 1, without the header.
    """

    def __init__(
        self, message: str, *, file: str | None = None, row: int | None = None, column: str | None = None
    ) -> None:
        parts = (
            str(file) if file is not None else "",
            f"row {row}" if row is not None else "",
            f"column {column!r}" if column is not None else "",
        )
        where = ", ".join(filter(None, parts))
        super().__init__(f"{where}: {message}" if where else message)
        self.file, self.row, self.column = file, row, column


class CheckpointError(FinetuneError):
    """A base or a model folder is missing, unreadable, incomplete, or in a format that is not loaded."""


class TrainingError(FinetuneError):
    """The loss or the weights became non-finite during training."""

    exit_code = 3


class StorageError(FinetuneError):
    """The disk is full, or a file would exceed a size limit or a quota."""


class MissingExtra(FinetuneError):
    """An optional dependency is not installed; the message has the command that installs it."""
