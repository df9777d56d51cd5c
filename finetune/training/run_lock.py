"""One run at a time for each output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from finetune.core.errors import ConfigError
from finetune.core.file_lock import held, is_held


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of an output folder; create missing parent folders, and remove them at the end if they are empty.

    Raises:
        ConfigError: another run holds the lock, or the folder cannot be written.
    """
    missing = [parent for parent in out.parents if not parent.exists()]
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, missing)
            stack.enter_context(held(out))
        except BlockingIOError as error:
            raise _held_by_another(out) from error
        except OSError as error:
            raise ConfigError(
                f"{out} cannot be written: {error.strerror or error}. Choose another folder with --out"
            ) from error
        yield


def require_unlocked(out: Path) -> None:
    """Raise ConfigError if another run is writing an output folder."""
    if is_held(out):
        raise _held_by_another(out)


def _held_by_another(out: Path) -> ConfigError:
    return ConfigError(
        f"another run is writing {out}. Wait until it ends, stop it, or choose another folder with --out"
    )


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
