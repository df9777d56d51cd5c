"""The cache folder: files that were computed from a model on this machine and can be computed again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from finetune.core.model_folder import ModelFolder
from finetune.core.model_folder import sha256 as sha256_of

HASHES = "hashes.json"
"""The file that `seal` writes."""

PARTIAL = ".partial-"
"""Beginning of the names of folders in which files are completed."""

ABANDONED_S = 3600
"""Age of such a folder, in seconds, from which nobody completes it."""


def home_of(folder: ModelFolder, cache: Path) -> Path:
    """Return a model's place in the cache folder, by the hash of its weights and its config.json."""
    return cache / hash_of([*sorted(folder.path.glob("model*.safetensors")), folder.path / "config.json"])


def hash_of(files: Iterable[Path]) -> str:
    """Return a short hash of the contents of files."""
    hashes = [_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256("".join(hashes).encode()).hexdigest()[:32]


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of each file of a folder; empty where there is none."""
    try:
        return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir())
    except OSError:
        return []


def delete_abandoned(home: Path) -> None:
    """Delete what processes that were killed have left half-written."""
    for staging in home.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            if time.time() - staging.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(staging)


def put(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically.

    Raises:
        OSError: its folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=PARTIAL) as staging:
        partial = Path(staging) / file.name
        write(partial)
        partial.replace(file)


def check_owner(cache: Path) -> None:
    """Refuse a cache folder that another user can fill; root, who reads what it likes, may use any.

    Raises:
        PermissionError: the folder belongs to another user.
    """
    if not hasattr(os, "geteuid") or os.geteuid() == 0 or not cache.exists():  # geteuid is not there on Windows
        return
    if cache.stat().st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(cache))


def seal(folder: Path) -> None:
    """Write the hashes of a folder's files into it, as the last file."""
    hashes = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != HASHES}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def is_intact(folder: Path) -> bool:
    """Return whether a folder is complete, and each of its files is as `seal` found it."""
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return isinstance(hashes, dict) and all(sha256_of(folder / name) == hash for name, hash in hashes.items())
    except (FileNotFoundError, ValueError):
        return False


@lru_cache(maxsize=64)
def _hash(file: Path, size: int, changed: int) -> str:
    """Return a file's hash, cached by its size and time of change."""
    return sha256_of(file)
