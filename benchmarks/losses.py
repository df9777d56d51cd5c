"""Measure losses and initializers against Keras 3 and against their definitions.

    PYTHONPATH=tests/support python benchmarks/losses.py

For each loss and task it prints the largest relative deviation per row over several option values: from Keras on
moderate logits, and from the definition in float64 on logits of -1e4, 0 and 1e4 with extreme targets. For each
initializer it prints the deviation of the standard deviation, and how far values lie beyond the bounds. The references
are those of the tests (tests/support/keras_reference.py).

Deviations are relative to the loss, or to 0.1 where it is smaller. Losses are computed in float32, as in training.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator

# in the place of this folder, whose finetune.py is not the package of that name
import keras_reference as reference
import numpy as np
import torch

from finetune.core.labels import Task
from finetune.modeling.initializers import INITIALIZERS
from finetune.training.losses import FITS, LOSSES

FLOOR = 0.1
SHAPE = (1500, 1000)
"""Fan out and fan in of the weights: the deviation of so many draws is known to about 0.06 %."""


def loss(name: str, task: Task) -> tuple[float | None, float]:
    """The largest deviation from Keras on moderate inputs (None where Keras has no such loss), and from the definition
    on extreme ones."""
    from_keras, from_definition = [], []
    for shares in [False, True] if FITS[name].shares else [False]:
        for knobs in reference.KNOBS.get(name, [{}]):
            logits, targets = reference.moderate(task, shares=shares)
            if name in reference.KERAS:
                expected = reference.keras_loss(name, logits, targets, **knobs)
                found = LOSSES[name](logits, targets, **knobs)
                from_keras.append(reference.deviation(found, expected, floor=FLOOR))
            logits, targets = reference.extreme(task, shares=shares)
            expected = reference.defined_loss(name, logits, targets, **knobs)
            found = LOSSES[name](logits, targets, **knobs)
            from_definition.append(reference.deviation(found, expected, floor=FLOOR))
    return max(from_keras, default=None), max(from_definition)


def initializer(name: str) -> tuple[str, str]:
    """The deviation of a weight's standard deviation from that of Keras's, and from the definition with its bounds."""
    knobs = reference.INITIALISER_KNOBS.get(name, [{}])[-1]
    torch.manual_seed(0)
    weight = torch.empty(SHAPE)
    INITIALIZERS[name](weight, **knobs)
    ours, theirs = weight.double().numpy(), reference.keras_weight(name, *SHAPE, **knobs)
    spread = reference.defined_spread(name, *SHAPE, **knobs)
    if spread.std == 0:
        return f"value {np.abs(ours - theirs).max():.1e}", f"value {np.abs(ours - spread.mean).max():.1e}"
    said = f"std {abs(ours.std() / spread.std - 1):.1e}"
    if np.isfinite(spread.high):
        beyond = max(spread.low - ours.min(), ours.max() - spread.high, 0.0)
        said += f", beyond bounds {beyond / (spread.high - spread.low):.1e}"
    return f"std {abs(ours.std() / theirs.std() - 1):.1e}", said


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The table's rows: what, for which task or weight, from Keras, from the definition."""
    for name, fit in FITS.items():
        for task in fit.tasks:
            from_keras, from_definition = loss(name, task)
            yield name, task, "not in Keras" if from_keras is None else f"{from_keras:.1e}", f"{from_definition:.1e}"
    for name in INITIALIZERS:
        yield name, f"weight {SHAPE[0]} x {SHAPE[1]}", *initializer(name)


def main() -> None:
    """Print the table, and where it was found."""
    began = time.perf_counter()
    print("| what | for | from Keras, moderate | from the definition, extreme |\n|---|---|---|---|")
    for row in rows():
        print(f"| {' | '.join(row)} |", flush=True)
    where = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, keras {reference.keras.__version__}, numpy {np.__version__}"
    print(f"\n# {where}, {versions}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
