"""The folder of uploads and downloads of the web UI: one for each server process, deleted with it."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

from finetune.core import file_lock
from service.server.admission import UPLOAD_LIFETIME_S

PREFIX = "rehead-page-"
CLEANUP_INTERVAL_S = 300
BLOCK_BYTES = 4096


@cache
def _folder() -> tuple[Path, ExitStack]:
    """Return the folder, and what deletes it; its lock is held as long as this process lives."""
    parent = os.environ.get("GRADIO_TEMP_DIR")
    Path(parent or tempfile.gettempdir()).mkdir(parents=True, exist_ok=True)
    delete_abandoned(Path(parent or tempfile.gettempdir()))
    stack = ExitStack()
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent))).resolve()
    stack.enter_context(file_lock.held(path))
    stack.callback(_set_temporary_folder, parent)
    _set_temporary_folder(str(path))  # Gradio has no other option (gradio/utils.py, get_upload_folder)
    atexit.register(stack.close)
    return path, stack


def _set_temporary_folder(path: str | None) -> None:
    if path is None:
        os.environ.pop("GRADIO_TEMP_DIR", None)
    else:
        os.environ["GRADIO_TEMP_DIR"] = path


def delete_abandoned(parent: Path) -> None:
    """Delete the folders of servers that were killed: those whose lock file is left, and held by no process."""
    if os.name == "nt":  # there is no lock
        return
    for path in parent.glob(f"{PREFIX}*"):
        if file_lock.lock_file(path).is_file() and not path.is_symlink():
            with suppress(OSError), file_lock.held(path):
                shutil.rmtree(path)


def delete_folder() -> None:
    """Delete the folder of uploads and downloads; the next call of `folder` makes another."""
    _folder()[1].close()
    _folder.cache_clear()


def folder() -> Path:
    """Return the folder of uploads and downloads, which is this process's own and deleted with it."""
    return _folder()[0]


def new_folder(content: bytes | None = None) -> Path:
    """Return a folder in it for one file, with an unguessable name: the hash of the content, or a random one."""
    path = folder() / secrets.token_hex(32) if content is None else folder_of(content)
    path.mkdir(exist_ok=content is not None)
    os.utime(path)  # it expires an hour from now, also where it was there
    return path


def folder_of(content: bytes) -> Path:
    """Return where the folder for a content is, or would be."""
    return folder() / hashlib.sha256(content).hexdigest()


async def delete_old_files() -> None:
    """Delete expired files until cancelled."""
    while True:
        await asyncio.sleep(CLEANUP_INTERVAL_S)
        await asyncio.to_thread(clean_up)


def clean_up() -> int:
    """Delete expired files and return the bytes that are left."""
    for child in folder().iterdir():
        with suppress(OSError):  # another thread may delete it first
            if time.time() - child.stat().st_mtime <= UPLOAD_LIFETIME_S:
                continue
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink()  # a part of an upload that was never completed
    return used_bytes(folder())


def used_bytes(path: Path) -> int:
    """Return the bytes that a folder uses; a file uses one block at least."""
    size = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            size += max(BLOCK_BYTES, file.stat().st_size)
    return size


def is_upload(path: Any) -> bool:
    """Return whether it is the path of an upload; its folder's name, a hash of its content, cannot be guessed."""
    if not isinstance(path, str):
        return False
    file = Path(path)
    inside = file.parent.parent == folder() and re.fullmatch(r"[0-9a-f]{64}", file.parent.name) is not None
    if not inside or "\0" in path or file.name in ("..", "."):
        return False
    with suppress(OSError):  # the name may be too long
        return file.is_file() and not file.is_symlink()
    return False
