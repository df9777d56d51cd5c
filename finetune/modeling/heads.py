"""Heads: from one vector for each text to logits; the table HEADS closes the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from finetune.modeling.activations import ACTIVATIONS

NORMS: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}

STOCK = "stock"
FEWEST_ROWS = 16
"""Rows in a batch from which batch normalization's statistics are reliable."""


def stock(width: int, outputs: int) -> nn.Module:
    """The base's own head, which plain transformers can load"""
    raise ConfigError("the stock head is built by the base's own class")


def linear(width: int, outputs: int, *, dropout: float = 0.1) -> nn.Module:
    """Dropout and one layer"""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))


def mlp(
    width: int,
    outputs: int,
    *,
    hidden: Sequence[int] = (256,),
    activation: str = "gelu",
    dropout: float = 0.1,
    norm: str = "none",
) -> nn.Module:
    """Hidden layers of these widths, each with its activation, normalization (none, batch, layer) and dropout"""
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ConfigError(f"model.head.hidden is {hidden!r}, and must be a list of positive integers such as [256, 64]")
    if norm not in NORMS:
        raise ConfigError(f"model.head.norm: there is no normalization {norm!r}. Choose one of {', '.join(NORMS)}")
    make, normalize = pick(ACTIVATIONS, activation, {}, what="activation"), NORMS[norm]
    layers: list[nn.Module] = []
    for before, after in zip([width, *widths], widths, strict=False):
        layers.append(nn.Linear(before, after))
        if normalize is not None:
            layers.append(normalize(after))
        layers += [make(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else width, outputs))


def warnings_of(head: nn.Module, rows: int, *, alike: bool) -> list[str]:
    """Return warnings about a head that is to be trained on batches of `rows` rows.

    Args:
        alike: whether all its initial weights are equal.

    Raises:
        ConfigError: batch normalization with batches of one row.
    """
    warnings = []
    if any(isinstance(layer, nn.BatchNorm1d) for layer in head.modules()):
        if rows < 2:
            raise ConfigError(
                "batch normalization cannot be computed over one row: raise optim.batch_size, or "
                "--set model.head.norm=layer"
            )
        if rows < FEWEST_ROWS:
            warnings.append(
                f"batch normalization over {rows} rows a batch is noisy: raise optim.batch_size to {FEWEST_ROWS} or "
                "more, or --set model.head.norm=layer"
            )
    if alike and sum(isinstance(layer, nn.Linear) for layer in head.modules()) > 1:
        warnings.append(
            "the initial weights of the hidden layers are all equal, so that their units stay identical: "
            "--set model.initializer=glorot_uniform"
        )
    return warnings


HEADS: dict[str, Callable[..., nn.Module]] = {STOCK: stock, "linear": linear, "mlp": mlp}
