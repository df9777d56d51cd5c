"""Data types of saved weights.

`float8` stores the matrices of the encoder (word embeddings, attention, feed-forward) as float8_e4m3fn and all else as
bfloat16: half the size of bfloat16. transformers reads such a file into whatever data type it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.config.training import SavedDtype

FLOAT8 = torch.float8_e4m3fn
BYTES: dict[SavedDtype, int] = {"float32": 4, "bfloat16": 2, "float8": 1}
"""Bytes of a weight, of most of them for `float8`."""


def rounded(model: nn.Module, dtype: SavedDtype) -> nn.Module:
    """Round the weights in place to those that a saved model has, and return the model in float32."""
    if dtype == "float8":
        coarse = _matrices_of_encoder(model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in coarse:
                    weight.copy_(weight.to(FLOAT8))
    return model if dtype == "float32" else model.to(torch.bfloat16).to(torch.float32)


def save_weights(model: Any, folder: Path, dtype: SavedDtype) -> None:
    """Write config.json and the weights of a transformers model into a folder."""
    if dtype == "float8":
        coarse = _matrices_of_encoder(model)
        model.to(torch.bfloat16)  # what config.json records, and transformers computes in
        content: dict[str, Tensor] = model.state_dict()
        stored = {name: value.to(FLOAT8) if name in coarse else value for name, value in content.items()}
        model.save_pretrained(folder, state_dict=stored)
    else:
        model.to(getattr(torch, dtype)).save_pretrained(folder)


def _matrices_of_encoder(model: Any) -> set[str]:
    """Return the names of the weights of linear layers and word embeddings in the encoder of a model."""
    body, words = model.base_model, model.get_input_embeddings()
    pooler = getattr(body, "pooler", None)
    new = set(pooler.modules()) if pooler is not None else set()
    inside = set(body.modules()) - new
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if module in inside and (isinstance(module, nn.Linear) or module is words)
    }
