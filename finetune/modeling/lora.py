"""Low-rank additions to a body (LoRA), by peft.

Knows: which layers get one, which are trained whole, and that merging must not change a score.
Does not know: the Trainer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from finetune.config.training import LoraConfig
from finetune.core.errors import ConfigError, MissingExtra, TrainingError

LARGEST_DIFFERENCE = 1e-3
"""Between logits before and after merging: float32 rounds the sum of weights and addition differently."""


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
    """Return the names of the linear layers that get an addition: those of the config, or all with no `new` weight.

    Raises:
        ConfigError: no layer of the names asked for.
    """
    from torch import nn

    whole = {name.rpartition(".")[0] for name in new}
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name not in whole]
    asked = config.layers
    chosen = [name for name in linear if not asked or any(name.endswith(f".{end}") for end in asked)]
    if not chosen:
        ends = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(f"model.lora.layers {list(asked)}: the body has linear layers named {', '.join(ends)}")
    return chosen


def with_lora(model: Any, new: list[str], config: LoraConfig) -> Any:
    """The model with additions to its body's linear layers; layers with `new` weights are trained whole.

    Raises:
        MissingExtra: peft is not installed.
        ConfigError: no layer of the names asked for.
    """
    peft = peft_module()
    chosen = layers_of(model, new, config)
    whole = {name.rpartition(".")[0] for name in new}
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=chosen,
        modules_to_save=sorted(whole),
    )
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.24 by an attribute's old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, wanted)


def merged(model: Any, predict: Any, adapter: Path | None) -> Any:
    """The plain model with the additions in its weights.

    Args:
        predict: `model -> logits`; merged and unmerged must agree.
        adapter: a folder to write the additions to as well, as peft writes them.

    Raises:
        TrainingError: the scores changed.
    """
    before = predict(model)
    if adapter is not None:
        model.save_pretrained(str(adapter))
    plain = model.merge_and_unload()
    _require_equal(before, predict(plain), "merging the LoRA additions")
    return plain


def _require_equal(before: npt.NDArray[Any], after: npt.NDArray[Any], what: str) -> None:
    difference = float(abs(before - after).max())
    if difference > LARGEST_DIFFERENCE * max(1.0, float(abs(before).max())):
        raise TrainingError(f"{what} changed the scores by {difference:.3g}: the model is not written")
