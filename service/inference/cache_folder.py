"""The cache folder: where a model's things lie that were made on this machine and can be made again.

Knows: by which hashes they are found, how a file gets there whole.
Does not know: what they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from finetune.core.model_folder import ModelFolder
from finetune.core.model_folder import sha256 as sha256_of


def home_of(folder: ModelFolder, cache: Path) -> Path:
    """Where in the cache folder a model's things lie: by what its weights and its config.json hold."""
    return cache / hash_of([*sorted(folder.path.glob("model*.safetensors")), folder.path / "config.json"])


def hash_of(files: Iterable[Path]) -> str:
    """A short hash of what files hold."""
    hashes = [_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256("".join(hashes).encode()).hexdigest()[:32]


def put(file: Path, write: Callable[[Path], None]) -> None:
    """Have a file written, which appears whole or not at all.

    Raises:
        OSError: its folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".making-") as staging:
        made = Path(staging) / file.name
        write(made)
        made.replace(file)


@lru_cache(maxsize=64)
def _hash(file: Path, size: int, changed: int) -> str:
    """A file's hash, read once for all that ask during a load; size and time of change tell another content."""
    return sha256_of(file)
