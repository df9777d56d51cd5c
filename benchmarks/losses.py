"""Measure losses and initializers against Keras 3 and against their definitions.

    PYTHONPATH=tests/support python benchmarks/losses.py

For each loss and task it prints the largest relative deviation per row over several option values: from Keras on
moderate logits, and from the definition in float64 on logits of -1e4, 0 and 1e4 with extreme targets. For each
initializer it prints the deviation of the standard deviation, and how far values lie beyond the bounds. The references
are those of the tests (tests/support/keras_reference.py).

Deviations are relative to the loss, or to 0.1 if the loss is smaller. Losses are computed in float32, as in training.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator

import keras_reference as reference
import numpy as np
import torch

from finetune.core.labels import Task
from finetune.modeling.initializers import INITIALIZERS
from finetune.training.losses import FITS, LOSSES

FLOOR = 0.1
SHAPE = (1500, 1000)
"""Fan out and fan in of the weights: the deviation of so many draws is accurate to about 0.06%."""


def loss(name: str, task: Task) -> tuple[float | None, float]:
    """Return the largest deviations: from Keras on moderate inputs (None if Keras has no such loss), and from the
    definition on extreme inputs."""
    from_keras, from_definition = [], []
    for shares in [False, True] if FITS[name].shares else [False]:
        for options in reference.OPTIONS.get(name, [{}]):
            logits, targets = reference.moderate(task, shares=shares)
            if name in reference.KERAS:
                expected = reference.keras_loss(name, logits, targets, **options)
                losses = LOSSES[name](logits, targets, **options)
                from_keras.append(reference.deviation(losses, expected, floor=FLOOR))
            logits, targets = reference.extreme(task, shares=shares)
            expected = reference.defined_loss(name, logits, targets, **options)
            losses = LOSSES[name](logits, targets, **options)
            from_definition.append(reference.deviation(losses, expected, floor=FLOOR))
    return max(from_keras, default=None), max(from_definition)


def initializer(name: str) -> tuple[str, str]:
    """Return the deviation of a weight's standard deviation from Keras, and from the definition and its bounds."""
    options = reference.INITIALIZER_OPTIONS.get(name, [{}])[-1]
    torch.manual_seed(0)
    weight = torch.empty(SHAPE)
    INITIALIZERS[name](weight, **options)
    ours, theirs = weight.double().numpy(), reference.keras_weight(name, *SHAPE, **options)
    spread = reference.defined_spread(name, *SHAPE, **options)
    if spread.std == 0:
        return f"value {np.abs(ours - theirs).max():.1e}", f"value {np.abs(ours - spread.mean).max():.1e}"
    from_definition = f"std {abs(ours.std() / spread.std - 1):.1e}"
    if np.isfinite(spread.high):
        beyond = max(spread.low - ours.min(), ours.max() - spread.high, 0.0)
        from_definition += f", beyond bounds {beyond / (spread.high - spread.low):.1e}"
    return f"std {abs(ours.std() / theirs.std() - 1):.1e}", from_definition


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the table: name, task or weight, deviation from Keras, deviation from the definition."""
    for name, fit in FITS.items():
        for task in fit.tasks:
            from_keras, from_definition = loss(name, task)
            yield name, task, "not in Keras" if from_keras is None else f"{from_keras:.1e}", f"{from_definition:.1e}"
    for name in INITIALIZERS:
        yield name, f"weight {SHAPE[0]} x {SHAPE[1]}", *initializer(name)


def main() -> None:
    """Print the table, the machine and the versions."""
    began = time.perf_counter()
    print("| name | task or weight | from Keras, moderate | from the definition, extreme |\n|---|---|---|---|")
    for row in rows():
        print(f"| {' | '.join(row)} |", flush=True)
    where = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, keras {reference.keras.__version__}, numpy {np.__version__}"
    print(f"\n# {where}, {versions}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
