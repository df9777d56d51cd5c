"""How a faster way to compute a model is chosen: by the model's type, then by a trial against the ordinary way.

Nothing here or in the fast paths reads source text, which a zipped or compiled installation does not have.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Largest difference of a logit, over the largest logit, that float32 leaves between the two ways."""


def model_type_of(model: Any) -> str:
    """Return transformers' name for the type of a model's body, also under a head or an adapter of ours."""
    types = [module.config.model_type for module in model.modules() if isinstance(module, PreTrainedModel)]
    return types[-1] if types else ""


def trial_logits(model: Any) -> Tensor:
    """Return the logits `[2, C]` of two short rows, one of them padded, in evaluation mode."""
    ids = torch.arange(10, device=model.device).reshape(2, 5)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, attention_mask=mask).logits.float()
    finally:
        model.train(training)
    return logits


def agree(logits: Tensor, expected: Tensor) -> bool:
    """Return whether logits differ from the expected ones by rounding only."""
    difference = (logits - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max().clamp(min=1))


@cache
def log_off(path: str, model_type: str, reason: str) -> None:
    """Log that a fast path is not used, once for each path, model type and reason in a process."""
    logging.getLogger("rehead").info("%s is off for %s: %s", path, model_type or "this model", reason)
