"""Weights in 8 bits: what is stored, that it is what was measured, and that transformers reads it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

import rehead

ROWS: list[dict[str, Any]] = [
    {"text": f"{word} film {number}", "label": label}
    for number in range(30)
    for word, label in (("good", "yes"), ("bad", "no"))
]


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    out = tmp_path / "coarse"
    settings = {"base": str(tiny_base), "out": str(out), "save_dtype": "float8", "optim": {"epochs": 1}}
    rehead.train(rehead.TrainConfig(**settings), ROWS, progress=False)
    return out


def test_matrices_of_the_encoder_are_stored_in_8_bits_and_all_else_in_16(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        dtypes = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    coarse = {name for name, dtype in dtypes.items() if dtype == "F8_E4M3"}
    assert set(dtypes.values()) == {"F8_E4M3", "BF16"}
    assert "bert.embeddings.word_embeddings.weight" in coarse
    assert {name for name in coarse if "embeddings" not in name} == {
        name for name in dtypes if "encoder" in name and name.endswith("weight") and "LayerNorm" not in name
    }


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_transformers_reads_it_into_any_data_type(folder: Path, dtype: torch.dtype | None) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype or "auto")
    assert {weight.dtype for weight in model.parameters()} == {dtype or torch.bfloat16}
    matrix = model.bert.encoder.layer[0].intermediate.dense.weight.float()
    assert torch.equal(matrix, matrix.to(torch.float8_e4m3fn).float())


def test_scores_are_those_of_the_stored_weights(folder: Path) -> None:
    model = rehead.load(str(folder))
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(["good film 3"], return_tensors="pt")
    with torch.no_grad():
        expected = torch.softmax(plain(**batch).logits[0], dim=0)
    found = {answer["label"]: answer["score"] for answer in model("good film 3", top_k=None)}
    for number, label in plain.config.id2label.items():
        assert found[label] == pytest.approx(float(expected[number]), abs=1e-3)
