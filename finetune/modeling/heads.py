"""Heads: from one vector a text to logits; the table HEADS closes the file.

Knows: layers, and which of a head's settings go together.
Does not know: bodies, poolings, how weights begin (initializers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from finetune.core.errors import ConfigError
from finetune.core.registry import pick
from finetune.modeling.activations import ACTIVATIONS

NORMS: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}

STOCK = "stock"
FEWEST_ROWS = 16
"""Rows in a batch from which batch normalization's statistics are worth something."""


def stock(width: int, outputs: int) -> nn.Module:
    """The base's own head, which plain transformers loads"""
    raise ConfigError("the stock head is made by the base's own class")


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
    if not all(isinstance(one, int) and one > 0 for one in widths):
        raise ConfigError(f"head mlp wants widths such as hidden=[256, 64], not {hidden!r}")
    if norm not in NORMS:
        raise ConfigError(f"head mlp has no normalization {norm!r}: choose one of {', '.join(NORMS)}")
    make, normalise = pick(ACTIVATIONS, activation, {}, what="activation"), NORMS[norm]
    layers: list[nn.Module] = []
    for before, after in zip([width, *widths], widths, strict=False):
        layers.append(nn.Linear(before, after))
        if normalise is not None:
            layers.append(normalise(after))
        layers += [make(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else width, outputs))


def warnings_of(head: nn.Module, rows: int, *, alike: bool) -> list[str]:
    """What is to be said of a head before it is trained on batches of `rows` rows.

    Args:
        alike: whether its weights begin all alike.

    Raises:
        ConfigError: batch normalization of single rows.
    """
    said = []
    if any(isinstance(layer, nn.BatchNorm1d) for layer in head.modules()):
        if rows < 2:
            raise ConfigError(
                "batch normalization has no statistics of one row: raise optim.batch_size, or "
                "--set model.head.norm=layer"
            )
        if rows < FEWEST_ROWS:
            said.append(
                f"batch normalization over {rows} rows a batch is noisy: raise optim.batch_size to {FEWEST_ROWS} or "
                "more, or --set model.head.norm=layer"
            )
    if alike and sum(isinstance(layer, nn.Linear) for layer in head.modules()) > 1:
        said.append(
            "the hidden layers begin with all weights alike, so that their units will stay alike: "
            "--set model.initializer=glorot_uniform"
        )
    return said


HEADS: dict[str, Callable[..., nn.Module]] = {STOCK: stock, "linear": linear, "mlp": mlp}
