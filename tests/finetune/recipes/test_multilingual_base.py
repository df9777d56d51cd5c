"""A quantized multilingual model becomes a plain BertModel folder."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from finetune.core.errors import CheckpointError
from finetune.recipes.multilingual_base import BLOCK, HEADER, PARTS, RECORD, convert, main

pytestmark = pytest.mark.fast
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "gut", "bon", "good", "<mask>")
SIZES = (32, 2, 4, 64, len(PIECES), 16, 2)
"""Width, layers, heads, feed-forward width, vocabulary, positions, token types."""

NAMES = {"word_embeddings": "emb.word", "position_embeddings": "emb.pos", "token_type_embeddings": "emb.type"}


def short(name: str) -> str:
    """Return the name in the file of a weight of BertModel."""
    for part, stem in NAMES.items():
        if part in name:
            return stem
    suffix = "w" if name.endswith("weight") else "b"
    if name.startswith("embeddings"):
        return f"emb.ln.{suffix}"
    layer, rest = name.removeprefix("encoder.layer.").split(".", 1)
    [part] = [part for part, stem in PARTS.items() if rest == f"{stem}.{rest.rsplit('.', 1)[1]}"]
    return f"l{layer}.{part}.{suffix}"


def quantized(weights: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return weights in the format Q4_0, and the weights that this holds, computed one by one."""
    flat = weights.ravel().reshape(-1, 32)
    blocks, held = np.zeros(len(flat), BLOCK), np.zeros_like(flat)
    for number, row in enumerate(flat):
        scale = np.float16(np.abs(row).max() / 7 or 1)  # the row of <pad> is zeros
        quants = np.clip(np.round(row / np.float32(scale)) + 8, 0, 15).astype(int)
        blocks[number] = (scale, [quants[j] | quants[16 + j] << 4 for j in range(16)])
        held[number] = [np.float32(scale) * (quant - 8) for quant in quants]
    return blocks.tobytes(), held.reshape(weights.shape)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, BertModel]:
    """Return a file of weights, its tokenizer, and the model that they are."""
    width, layers, heads, inner, vocabulary, positions, types = SIZES
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    names = sorted(model.state_dict(), key=lambda name: name != "embeddings.word_embeddings.weight")
    table, body, first = b"", b"", 4096 * 4
    for name in names:
        tensor = model.state_dict()[name]
        four_bits = tensor.dim() == 2 and name.endswith("weight") and not any(n in name for n in list(NAMES)[1:])
        content = tensor.numpy().astype("<f4").tobytes()
        if four_bits:
            content, held = quantized(tensor.numpy())
            tensor.copy_(torch.from_numpy(held))
        encoded = short(name).encode()
        record = RECORD.pack(int(four_bits), tensor.numel(), first + len(body), len(content))
        table += struct.pack("<H", len(encoded)) + encoded + record
        body += content
    head = HEADER.pack(b"E5S1", 1, *SIZES, 1e-12) + b"some bytes of a tokenizer" + struct.pack("<I", len(names)) + table
    weights = tmp_path / "tiny.bin"
    weights.write_bytes(head.ljust(first, b"\0") + body)
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return weights, tmp_path / "tokenizer.json", model


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_converted_model_computes_what_its_quantized_weights_say(
    files: tuple[Path, Path, BertModel], tmp_path: Path
) -> None:
    weights, tokenizer, model = files
    convert(weights, tokenizer, tmp_path / "out", weights_sha256=sha256(weights), tokenizer_sha256=sha256(tokenizer))
    loaded = AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["gut bon", "good"], ["bon", "gut"], return_tensors="pt", padding=True
    )
    assert inputs["input_ids"].tolist() == [[0, 4, 5, 2, 2, 5, 2], [0, 6, 2, 2, 4, 2, 1]]
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_other_files_are_refused(files: tuple[Path, Path, BertModel], tmp_path: Path) -> None:
    weights, tokenizer, _ = files
    with pytest.raises(CheckpointError, match=r"tiny\.bin is not the expected file: its SHA-256"):
        convert(weights, tokenizer, tmp_path / "out", tokenizer_sha256=sha256(tokenizer))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not the expected file"):
        convert(weights, tokenizer, tmp_path / "out", weights_sha256=sha256(weights))
    done = CliRunner().invoke(main, [str(weights), str(tmp_path)])
    assert done.exit_code == 1 and "exists already" in done.output
    assert not (tmp_path / "out").exists()
