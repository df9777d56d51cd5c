"""Cut the vocabulary of a model to the pieces that some texts need: the same scores on them from a smaller folder.

Half of a small model's weights are word embeddings, and most of a multilingual one's. A piece that no text uses can be
dropped without any effect on those texts: WordPiece takes the longest piece that matches, Unigram the best
segmentation, and both remain.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

from finetune.core import model_folder
from finetune.core.errors import CheckpointError
from finetune.core.weight_files import WEIGHTS, check_weights

TOKENIZER, TOKENIZER_CONFIG, CONFIG = "tokenizer.json", "tokenizer_config.json", "config.json"
COPIED = (model_folder.CLASSIFIER, "README.md", "special_tokens_map.json")
"""Files that do not depend on the vocabulary; reports and the recorded config are of the whole model."""

WORD_STARTS = ("▁", "##")
TEXTS_AT_ONCE = 1000
LOW_PADDING_ID = 100
"""Up to this padding token all pieces before it stay: RoBERTa models count positions from its id."""


@dataclass(frozen=True)
class Trimmed:
    """What was kept.

    Attributes:
        pieces, pieces_before: size of the new vocabulary and of the old one.
        size_bytes, size_bytes_before: of the weights.
        texts, unchanged: texts that were read, and those of them whose pieces are all kept.
    """

    pieces: int
    pieces_before: int
    size_bytes: int
    size_bytes_before: int
    texts: int
    unchanged: int


def trim_vocabulary(
    folder: Path,
    texts: Sequence[str],
    out: Path,
    *,
    min_count: int = 1,
    keep: Collection[int] = (),
    overwrite: bool = False,
) -> Trimmed:
    """Write the model in `folder` to the new folder `out`, with the pieces that the texts need.

    Special tokens, single characters and byte pieces are kept in any case.

    Args:
        min_count: occurrences from which a piece is kept; with 1, every text keeps its scores.
        keep: ids of pieces that are kept in any case, in the vocabulary of `folder`.

    Raises:
        CheckpointError: the tokenizer is neither WordPiece nor Unigram, or the weights are missing or in several files.
        ConfigError: `out` holds files, and `overwrite` is off.
    """
    model_folder.check_output(out, overwrite=overwrite)
    check_weights(folder)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: the weights are in several files; save them as one {WEIGHTS} first")
    content, config = _json(folder / TOKENIZER), _json(folder / CONFIG)
    if "vocab_size" not in config:
        raise CheckpointError(
            f"{folder}: models with a head of `rehead` (linear, mlp) cannot be trimmed; trim the base, then train"
        )
    pieces = _pieces(folder, content)
    counts = Counter(number for ids in _encoded(folder, texts) for number in ids)
    kept = {number for number, count in counts.items() if count >= min_count} | (set(keep) & set(pieces))
    kept |= _always_kept(pieces, content, config)
    unchanged = len(texts) if min_count == 1 else sum(kept.issuperset(ids) for ids in _encoded(folder, texts))
    staged = out.with_name(f".{out.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        _write(folder, staged, content, config, sorted(kept))
        model_folder.publish(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sizes = ((out / WEIGHTS).stat().st_size, (folder / WEIGHTS).stat().st_size)
    return Trimmed(len(kept), len(pieces), *sizes, len(texts), unchanged)


def _pieces(folder: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Return the vocabulary of a tokenizer by id, added tokens included."""
    model = content["model"]
    kind = model.get("type") or ("Unigram" if isinstance(model.get("vocab"), list) else None)
    if kind == "Unigram":
        pieces = {number: piece for number, (piece, _) in enumerate(model["vocab"])}
    elif kind == "WordPiece":
        pieces = {number: piece for piece, number in model["vocab"].items()}
    else:
        raise CheckpointError(
            f"{folder}: its tokenizer is {kind}, whose pieces are built from each other; only the vocabularies of "
            "WordPiece and Unigram (SentencePiece) can be trimmed"
        )
    return pieces | {token["id"]: token["content"] for token in content["added_tokens"]}


def _encoded(folder: Path, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids of each text, without special tokens; names of special tokens in a text are read as text."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        batch = [str(text) for text in texts[first : first + TEXTS_AT_ONCE]]
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _always_kept(pieces: Mapping[int, str], content: Mapping[str, Any], config: Mapping[str, Any]) -> set[int]:
    """Return the ids of special tokens, single characters, byte pieces, and pieces before a low padding token."""
    kept = {token["id"] for token in content["added_tokens"]}
    kept |= {value for key, value in config.items() if key.endswith("_token_id") and value in pieces}
    padding = config.get("pad_token_id") or 0
    kept |= set(range(padding + 1)) if padding <= LOW_PADDING_ID else set()
    model = content["model"]
    if "unk_id" in model and model["unk_id"] is not None:
        kept.add(model["unk_id"])
    kept |= {number for number, piece in pieces.items() if piece == model.get("unk_token")}
    for number, piece in pieces.items():
        for start in WORD_STARTS:
            piece = piece.removeprefix(start)
        if len(piece) <= 1 or (piece.startswith("<0x") and len(piece) == 6):
            kept.add(number)
    return kept & set(pieces)


def _write(folder: Path, out: Path, content: dict[str, Any], config: dict[str, Any], kept: Sequence[int]) -> None:
    """Write a trimmed model into the folder `out`; the new id of a piece is its place in `kept`."""
    new_id = {old: new for new, old in enumerate(kept)}
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copy2(folder / name, out)
    if (folder / TOKENIZER_CONFIG).is_file():
        settings = _json(folder / TOKENIZER_CONFIG)
        settings.pop("added_tokens_decoder", None)  # tokenizer.json has them too
        model_folder.write_json(out / TOKENIZER_CONFIG, settings)
    (out / TOKENIZER).write_text(json.dumps(_tokenizer(content, new_id), ensure_ascii=False), encoding="utf-8")
    model_folder.write_json(out / CONFIG, _config(config, new_id))
    _write_weights(folder / WEIGHTS, out / WEIGHTS, config, kept)
    if (folder / model_folder.MANIFEST).is_file():
        model_folder.seal(out)


def _tokenizer(content: dict[str, Any], new_id: Mapping[int, int]) -> dict[str, Any]:
    """Return a tokenizer's JSON with the kept pieces, renumbered."""
    model = dict(content["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_id]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_id[model["unk_id"]]
    else:
        model["vocab"] = {piece: new_id[number] for piece, number in model["vocab"].items() if number in new_id}
    added = [token | {"id": new_id[token["id"]]} for token in content["added_tokens"]]
    trimmed = content | {"model": model, "added_tokens": added}
    trimmed["post_processor"] = _renumbered(content.get("post_processor"), new_id)
    if content.get("padding"):
        trimmed["padding"] = content["padding"] | {"pad_id": new_id[content["padding"]["pad_id"]]}
    return trimmed


def _renumbered(processor: Any, new_id: Mapping[int, int]) -> Any:
    """Return a post-processor with the ids of its special tokens renumbered."""
    if isinstance(processor, list):
        return [_renumbered(each, new_id) for each in processor]
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing: [token, id]
        if isinstance(changed.get(name), list):
            token, number = changed[name]
            changed[name] = [token, new_id[number]]
    if isinstance(changed.get("special_tokens"), dict):
        changed["special_tokens"] = {
            name: token | {"ids": [new_id[number] for number in token["ids"]]}
            for name, token in changed["special_tokens"].items()
        }
    if "processors" in changed:
        changed["processors"] = _renumbered(changed["processors"], new_id)
    return changed


def _config(config: dict[str, Any], new_id: Mapping[int, int]) -> dict[str, Any]:
    """Return a config with the new vocabulary size and ids; None for a token that the tokenizer does not have."""
    ids = {
        key: new_id.get(value) for key, value in config.items() if key.endswith("_token_id") and isinstance(value, int)
    }
    return config | ids | {"vocab_size": len(new_id)}


def _write_weights(source: Path, out: Path, config: Mapping[str, Any], kept: Collection[int]) -> None:
    """Write the weights with those rows of word embeddings that are kept, and of layers tied to them.

    Raises:
        CheckpointError: another size of the model equals that of the vocabulary, so that a tensor is ambiguous.
    """
    rows = config["vocab_size"]
    others = {key: value for key, value in config.items() if key != "vocab_size" and key.endswith(("_size", "_dim"))}
    same = next((key for key, value in others.items() if value == rows), None)
    if same is not None:
        raise CheckpointError(f"{source}: {same} is {rows} as the vocabulary is, so that its weights are ambiguous")
    with safe_open(source, "pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
        metadata = weights.metadata()
    indices = list(kept)
    tensors = {name: tensor[indices] if tensor.shape[:1] == (rows,) else tensor for name, tensor in tensors.items()}
    save_file(tensors, out, metadata=metadata or {"format": "pt"})


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
