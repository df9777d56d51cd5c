"""LoRA adapters of a body, by peft; merging them must not change a score."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from finetune.config.model import LoraConfig
from finetune.core.errors import ConfigError, MissingExtra, TrainingError

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of logits before and after merging: float32 rounds the sum of weights and adapter differently."""


def peft_module() -> Any:
    """Return the module peft.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("model.lora needs peft: pip install 'rehead[lora]'") from error
    return peft


def layers_of(model: Any, new: Iterable[str], config: LoraConfig) -> list[str]:
    """Return the names of the linear layers that get an adapter: those of the config, or all without a `new` weight.

    Raises:
        ConfigError: the body has no layer of the config's names.
    """
    from torch import nn

    whole = {name.rpartition(".")[0] for name in new}
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name not in whole]
    ends = config.layers
    layers = [name for name in linear if not ends or any(name.endswith(f".{end}") for end in ends)]
    if not layers:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise ConfigError(f"model.lora.layers {list(ends)}: the body has linear layers named {known}")
    return layers


def with_lora(model: Any, new: list[str], config: LoraConfig) -> Any:
    """Return the model with adapters in its body's linear layers; layers with `new` weights are trained in full.

    Raises:
        MissingExtra: peft is not installed.
        ConfigError: the body has no layer of the config's names.
    """
    peft = peft_module()
    layers = layers_of(model, new, config)
    whole = {name.rpartition(".")[0] for name in new}
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=layers,
        modules_to_save=sorted(whole),
    )
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute of transformers 5.24 by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, lora)


def merged(model: Any, predict: Any, adapter: Path | None) -> Any:
    """Return the plain model with the adapters merged into its weights.

    Args:
        predict: `model -> logits`; they must be the same before and after.
        adapter: a folder to which peft also writes the adapters.

    Raises:
        TrainingError: the scores changed.
    """
    before = predict(model)
    if adapter is not None:
        model.save_pretrained(str(adapter))
    plain = model.merge_and_unload()
    _require_equal(before, predict(plain), "merging the LoRA adapters")
    return plain


def _require_equal(before: npt.NDArray[Any], after: npt.NDArray[Any], what: str) -> None:
    difference = float(abs(before - after).max())
    if difference > LARGEST_DIFFERENCE * max(1.0, float(abs(before).max())):
        raise TrainingError(f"{what} changed the scores by {difference:.3g}: the model was not written")
