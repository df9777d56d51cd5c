"""A model's tokenizer, from the cache folder after the first load."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from finetune.core.model_folder import TOKENIZER_FILES, ModelFolder
from finetune.core.tokenization import PreparedInputs, TextEncoder
from service.inference.cache_folder import hash_of, home_of, put


def encoder_of(folder: ModelFolder, cache: Path) -> TextEncoder:
    """Return the encoder of a checked folder.

    The first load asks transformers and stores the result in the cache folder: later loads need not import it.

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
        with suppress(OSError):  # selection.load logs a cache that cannot be written
            put(file, encoder.prepared.write)
    return encoder
