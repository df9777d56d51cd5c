"""A model's tokenizer, as it was prepared at an earlier load where there was one.

Knows: where prepared tokenizers lie, and what they depend on.
Does not know: what a tokenizer does.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from finetune.core.model_folder import TOKENIZER_FILES, ModelFolder
from finetune.core.tokenization import PreparedInputs, TextEncoder
from service.inference.cache_folder import hash_of, home_of, put


def encoder_of(folder: ModelFolder, cache: Path) -> TextEncoder:
    """The encoder of a checked folder. The first load asks transformers, and keeps what it says in the cache folder: a
    second start does without its import.

    Raises:
        CheckpointError: the folder's tokenizer cannot be loaded.
    """
    files = sorted({file for pattern in TOKENIZER_FILES for file in folder.path.glob(pattern) if file.is_file()})
    versions = "-".join(version(package) for package in ("transformers", "tokenizers"))
    file = home_of(folder, cache) / f"tokenizer-{hash_of(files)}-{versions}.json"
    prepared = None
    with suppress(OSError, ValueError):
        prepared = PreparedInputs.read(file)
    max_length = folder.settings.max_length
    encoder = TextEncoder.load(folder.path, folder.config, max_length=max_length, prepared=prepared)
    if prepared is None:
        with suppress(OSError):  # a cache that cannot be written is said where the backend is chosen
            put(file, encoder.prepared.write)
    return encoder
