"""Rules that diagnose a run's problems from gradient snapshots and losses, and the settings that fix them.

A suggested fix is a setting of the config, as `--set` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from finetune.training.gradient_monitor import GradientSnapshot
from finetune.training.optim import EMBEDDINGS, HEAD

VANISHED = 1e-3
"""Ratio of the largest gradient of the body's layers to that of the head below which gradients vanish; 0.1 to 10 are
usual."""

EXPLODED = 100.0
"""Ratio of the gradients' norm to that of the first snapshots above which gradients explode if the loss rises."""

HUGE = 1e4
"""Norm of all gradients that is an explosion in any case; healthy runs stay below 100."""

TOO_HIGH, TOO_LOW = 0.1, 1e-7
"""Update ratios above which the learning rate destroys a layer, and below which it has no effect."""

SAFE_LR = 1e-4
"""A learning rate at which any base trains."""

MOST_SILENT = 0.9
"""Proportion of silent units of a layer from which the head counts as dead."""

RISEN = 1.5
"""Ratio of a loss to an earlier one above which it has risen."""

FAR_ABOVE, ENDED_ABOVE = 5.0, 2.0
"""Ratios of the loss to that of the start above which a run has diverged: during training, and at its end. Healthy runs
stay below 1.5 with every loss, single batches aside."""

LOGGED = 5
"""Logged losses whose median is compared with the start: one hard batch is not divergence."""

SMALLEST_LOSS = 0.5
"""Least loss of the start that later losses are compared with: where a label is rare, a few more rows of it multiply
the usual loss."""

SNAPSHOTS = 3
"""Snapshots that must agree before a problem is diagnosed; a number that is not finite is one at once."""


@dataclass(frozen=True)
class Diagnosis:
    """A problem of a run, and how to fix it.

    Attributes:
        suggested_fixes: settings, as `--set` takes them.
        safe: settings that auto-recovery applies.
        grave: whether the run learns nothing or has diverged.
    """

    name: str
    sentence: str
    suggested_fixes: tuple[str, ...]
    safe: Mapping[str, Any] = field(default_factory=dict)
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.sentence} Try {', or '.join(f'--set {fix}' for fix in self.suggested_fixes)}"


def diagnose(
    snapshots: Sequence[GradientSnapshot], *, lr: float, layers: Sequence[str], head: str = "mlp"
) -> list[Diagnosis]:
    """Return the problems that the last snapshots show, the gravest first; empty for a healthy run. Where updates are
    too large, nothing else is diagnosed: other symptoms follow from it.

    Args:
        lr: the peak learning rate of the config.
        layers: parts that train, from the embeddings up.
        head: the head's name; only its settings are suggested.
    """
    if len(snapshots) < SNAPSHOTS:
        return []
    last = snapshots[-SNAPSHOTS:]
    too_large = [rule(snapshots, last, lr, layers) for rule in (_exploding, _too_high)]
    others = [_symmetric, _dead]
    if median(snapshot.loss for snapshot in last) <= RISEN * snapshots[0].loss:
        others += [_vanishing, _too_low]
    diagnoses = too_large if any(too_large) else [rule(snapshots, last, lr, layers) for rule in others]
    return [for_head(diagnosis, head, lr) for diagnosis in diagnoses if diagnosis is not None]


def for_head(diagnosis: Diagnosis, head: str, lr: float) -> Diagnosis:
    """Return the diagnosis with the fixes that apply to this head; with other fixes where none is left."""
    hidden, ours = head == "mlp", head != "stock"

    def applies(setting: str) -> bool:
        return (hidden or not setting.startswith("model.head.")) and (ours or not setting.startswith("model."))

    suggested = [fix for fix in diagnosis.suggested_fixes if applies(fix)]
    if not suggested:
        suggested = [f"optim.lr={lr / 10:.2g}"] if lr > SAFE_LR else []
        suggested += [] if head == "linear" else ["model.head=linear"]
    safe = {key: value for key, value in diagnosis.safe.items() if applies(key)}
    return replace(diagnosis, suggested_fixes=tuple(suggested or ["optim.warmup=0.2"]), safe=safe)


def loss_far_above(losses: Sequence[float], start: float, update: int, lr: float, *, ended: bool) -> Diagnosis | None:
    """Return the diagnosis of a run whose loss is far above that of its start, else None.

    Args:
        losses: the logged losses, each a mean over the updates since the previous one.
        start: the loss before the first update.
        ended: whether the run is over.
    """
    if len(losses) < (1 if ended else LOGGED):
        return None
    now = median(losses[-LOGGED:] if len(losses) >= LOGGED else losses[-1:])
    if now <= (ENDED_ABOVE if ended else FAR_ABOVE) * max(start, SMALLEST_LOSS):
        return None
    lower = min(lr / 10, SAFE_LR)
    return Diagnosis(
        "loss_rose",
        f"the run diverged: the loss rose to {max(losses[-LOGGED:]):.3g} by update {update}, and was {start:.3g} at "
        "the start.",
        (f"optim.lr={lower:.2g}", "optim.warmup=0.2", "optim.max_grad_norm=0.5"),
        {"optim.lr": lower, "optim.max_grad_norm": 0.5},
    )


def not_finite(where: str, update: int, lr: float) -> Diagnosis:
    """Return the diagnosis of a number that is not finite, first seen at `where` in an update."""
    lower = min(lr / 10, SAFE_LR)
    safe = {"optim.lr": lower, "optim.max_grad_norm": 0.5}
    return Diagnosis(
        "not_finite",
        f"the run diverged: {where} is not finite at update {update}; the weights before it are kept.",
        (f"optim.lr={lower:.2g}", "optim.max_grad_norm=0.5", "precision=float32", "optim.warmup=0.2"),
        safe,
    )


def _exploding(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    now, usual = median(snapshot.norm for snapshot in last), median(snapshot.norm for snapshot in snapshots[:SNAPSHOTS])
    rising = last[-1].loss > RISEN * min(snapshot.loss for snapshot in snapshots)
    if not (min(snapshot.norm for snapshot in last) > HUGE or (now > EXPLODED * usual and rising)):
        return None
    return Diagnosis(
        "exploding",
        f"gradients explode: their norm is {now:.3g} at update {last[-1].update_number}, and was {usual:.3g}.",
        ("optim.max_grad_norm=1", f"optim.lr={min(lr / 10, SAFE_LR):.2g}", "optim.warmup=0.2"),
        {"optim.max_grad_norm": 1.0, "optim.lr": min(lr / 10, SAFE_LR)},
    )


def _too_high(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    ratio = min(max(snapshot.ratios.values(), default=0.0) for snapshot in last)
    stuck = min(snapshot.loss for snapshot in last) > 0.9 * snapshots[0].loss
    if not (ratio > TOO_HIGH and stuck):
        return None
    return Diagnosis(
        "lr_too_high",
        f"the learning rate is too high: one update changes a layer by {ratio:.0%} of its weights, and the loss does "
        f"not fall ({snapshots[0].loss:.3g}, now {last[-1].loss:.3g}).",
        (f"optim.lr={min(lr / 10, SAFE_LR):.2g}", "optim.warmup=0.2"),
        {"optim.lr": min(lr / 10, SAFE_LR)},
    )


def _symmetric(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    alike = set.intersection(*(set(snapshot.alike) for snapshot in last))
    if not alike:
        return None
    return Diagnosis(
        "symmetric_head",
        f"all units of {', '.join(sorted(alike))} are identical and learn the same: their initial weights were equal.",
        ("model.initializer=glorot_uniform", "model.initializer=he_uniform"),
        {"model.initializer": "glorot_uniform"},
    )


def _dead(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    silent_units = {name: min(snapshot.silent.get(name, 0.0) for snapshot in last) for name in last[-1].silent}
    name = max(silent_units, key=lambda layer: silent_units[layer], default=None)
    if name is None or silent_units[name] < MOST_SILENT:
        return None
    return Diagnosis(
        "dead_head",
        f"{silent_units[name]:.0%} of the units of {name} pass no gradient for any row: they are dead or saturated.",
        ("model.head.activation=gelu", "model.initializer=he_uniform", f"optim.lr={lr / 10:.2g}"),
        {"model.head.activation": "gelu", "model.initializer": "he_uniform"},
    )


def _vanishing(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    # few rows of the embeddings get a gradient, so that its norm is not comparable
    body = [layer for layer in layers if layer not in (HEAD, EMBEDDINGS)]
    body = [layer for layer in body if all(layer in snapshot.gradient for snapshot in last)]  # some may unfreeze later
    if not body or not all(HEAD in snapshot.gradient for snapshot in last):
        return None
    ratios = [
        max(snapshot.gradient[layer] for layer in body) / max(snapshot.gradient[HEAD], 1e-30) for snapshot in last
    ]
    if max(ratios) > VANISHED:
        return None
    return Diagnosis(
        "vanishing",
        f"gradients vanish: those of the body are {median(ratios):.1e} of those of the head.",
        ("model.head.activation=relu", "model.initializer=he_uniform", "model.head.hidden=[]"),
        {"model.head.activation": "relu", "model.initializer": "he_uniform"},
    )


def _too_low(
    snapshots: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    highest = max(max(snapshot.ratios.values(), default=0.0) for snapshot in snapshots)
    if len(snapshots) < 3 * SNAPSHOTS or highest > TOO_LOW or lr > SAFE_LR:
        return None
    return Diagnosis(
        "lr_too_low",
        f"the learning rate is too low: no update changes a layer by more than {highest:.1e} of its weights.",
        (f"optim.lr={max(lr * 10, 2e-5):.2g}",),
        {"optim.lr": max(lr * 10, 2e-5)},
        grave=False,
    )
