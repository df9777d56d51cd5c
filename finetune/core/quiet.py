"""Silence the log lines, warnings and progress bars of transformers and torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def quiet() -> None:
    """Silence transformers and torch for the rest of the process; events report what matters."""
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the log lines and progress bars of transformers, and restore them afterwards."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
