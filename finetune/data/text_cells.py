"""Check and convert the text cells of training tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.core.errors import DataError
from finetune.core.tables.arrow_file import Cells


def texts_of(cells: Sequence[Any]) -> Sequence[str]:
    """Return the cells of a text column as strings; numbers and dates are converted by `str`."""
    return cells.decoded(_text) if isinstance(cells, Cells) else list(map(_text, cells))


def check_text(cell: Any, *, file: str, row: int, column: str) -> None:
    """Raise `DataError` for a cell that is not a text: a list, a dict, an array, or bytes that are not UTF-8."""
    if isinstance(cell, str):
        return
    if isinstance(cell, bytes):
        try:
            cell.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                "the text is bytes that are not UTF-8: decode them first", file=file, row=row, column=column
            ) from error
    elif isinstance(cell, Mapping | list | tuple | set | frozenset) or getattr(cell, "ndim", False):
        raise DataError(
            f"the text is a {type(cell).__name__}, and should be a string: write the text itself into the column, or "
            "name another column with --text",
            file=file,
            row=row,
            column=column,
        )


def _text(cell: Any) -> str:
    return cell.decode() if isinstance(cell, bytes) else str(cell)
