"""Gradient health: what each layer's gradients and weights do, what that means, and what helps.

Knows: norms, update ratios, silent units, and the rules by which they are diagnosed; a fix is a config field.
Does not know: the Trainer's loop, files.

An update ratio is the length of one update of a layer's weights over the length of those weights: about 1e-3 is usual,
and fine-tuning with AdamW keeps it between 1e-6 and 1e-2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from finetune.modeling.activations import silent
from finetune.training.optim import EMBEDDINGS, HEAD, Parts

VANISHED = 1e-3
"""Largest gradient of the body's layers, over that of the head, below which it has vanished: 0.1 to 10 are usual."""

EXPLODED = 100.0
"""Norm of all gradients, over the usual one of the run's first looks, beyond which they explode if the loss rises."""

HUGE = 1e4
"""Norm of all gradients that is an explosion wherever it appears: healthy runs here stay below 100."""

TOO_HIGH, TOO_LOW = 0.1, 1e-7
"""Update ratios of the body at which the learning rate destroys it, or does nothing."""

ALIKE = 0.1
"""Spread of a hidden layer's units below which they are alike; dropout alone drives them apart slowly."""

SAFE_LR = 1e-4
"""A rate at which any base trains."""

MOST_SILENT = 0.9
RISEN = 1.5

FAR_ABOVE, ENDED_ABOVE = 5.0, 2.0
"""Loss, over that of the start, beyond which a run has diverged: while it trains, and where it ends. Healthy runs of
every loss here stay below 1.5, single batches aside."""

LOGGED = 5
"""Logged losses whose median is compared with the start: a hard batch, or an outlier, is no divergence."""

SMALLEST_LOSS = 0.5
"""A loss of the start that is smaller counts as this much: where a label is rare, a few rows more of it are many times
the usual loss."""
LOOKS = 3
"""Looks that must agree before anything but a number that is not finite is diagnosed."""


@dataclass(frozen=True)
class GradientSnapshot:
    """One look at all layers: `gradient`, `weight` and `update` are norms by part, `silent` shares of units by layer,
    `alike` the hidden layers whose units are all the same."""

    update_number: int
    loss: float
    lr: float
    gradient: Mapping[str, float]
    weight: Mapping[str, float]
    update: Mapping[str, float]
    silent: Mapping[str, float] = field(default_factory=dict)
    alike: tuple[str, ...] = ()

    @property
    def norm(self) -> float:
        """Norm of all gradients together, before clipping."""
        return float(sum(value**2 for value in self.gradient.values()) ** 0.5)

    @property
    def ratios(self) -> dict[str, float]:
        """Update-to-weight ratio by part."""
        return {part: self.update[part] / max(self.weight[part], 1e-12) for part in self.update}

    def to_json(self) -> dict[str, Any]:
        """One line of report/gradients.jsonl."""
        return {**asdict(self), "alike": list(self.alike), "ratio": self.ratios}


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, in a sentence, and the settings that help, as `--set` takes them.

    `grave` ones mean that the run learns nothing or has diverged; `safe` are the fixes that `auto_recover` applies.
    """

    name: str
    sentence: str
    suggested_fixes: tuple[str, ...]
    safe: Mapping[str, Any] = field(default_factory=dict)
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.sentence} Try {', or '.join(f'--set {fix}' for fix in self.suggested_fixes)}"


def diagnose(
    looks: Sequence[GradientSnapshot], *, lr: float, layers: Sequence[str], head: str = "mlp"
) -> list[Diagnosis]:
    """What the last looks say, the gravest first; empty for a healthy run. A run whose updates are too large is
    diagnosed as that alone: what else its gradients show follows from it.

    Args:
        lr: the peak learning rate of the config.
        layers: parts that train, from the embeddings up.
        head: the head's name; only settings that it has are suggested.
    """
    if len(looks) < LOOKS:
        return []
    last = looks[-LOOKS:]
    too_large = [rule(looks, last, lr, layers) for rule in (_exploding, _too_high)]
    others = [_symmetric, _dead]
    if median(look.loss for look in last) <= RISEN * looks[0].loss:
        others += [_vanishing, _too_low]
    found = too_large if any(too_large) else [rule(looks, last, lr, layers) for rule in others]
    return [for_head(one, head, lr) for one in found if one is not None]


def for_head(diagnosis: Diagnosis, head: str, lr: float) -> Diagnosis:
    """The diagnosis with the suggestions that a run with this head can follow; another head where none is left."""
    hidden, ours = head == "mlp", head != "stock"

    def applies(setting: str) -> bool:
        return (hidden or not setting.startswith("model.head.")) and (ours or not setting.startswith("model."))

    suggested = [one for one in diagnosis.suggested_fixes if applies(one)]
    if not suggested:
        suggested = [f"optim.lr={lr / 10:.2g}"] if lr > SAFE_LR else []
        suggested += [] if head == "linear" else ["model.head=linear"]
    safe = {key: value for key, value in diagnosis.safe.items() if applies(key)}
    return replace(diagnosis, suggested_fixes=tuple(suggested or ["optim.warmup=0.2"]), safe=safe)


def loss_far_above(losses: Sequence[float], start: float, update: int, lr: float, *, ended: bool) -> Diagnosis | None:
    """The diagnosis of a run whose loss is far above that of its start, else None.

    Args:
        losses: the logged ones so far, each a mean since the one before.
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
    """A number that is none, first seen at `where` in an update."""
    lower = min(lr / 10, SAFE_LR)
    safe = {"optim.lr": lower, "optim.max_grad_norm": 0.5}
    return Diagnosis(
        "not_finite",
        f"the run diverged: {where} is not finite at update {update}, and the weights before it are kept.",
        (f"optim.lr={lower:.2g}", "optim.max_grad_norm=0.5", "precision=float32", "optim.warmup=0.2"),
        safe,
    )


def _exploding(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    now, usual = median(look.norm for look in last), median(look.norm for look in looks[:LOOKS])
    rising = last[-1].loss > RISEN * min(look.loss for look in looks)
    if not (min(look.norm for look in last) > HUGE or (now > EXPLODED * usual and rising)):
        return None
    return Diagnosis(
        "exploding",
        f"gradients explode: their norm is {now:.3g} at update {last[-1].update_number}, and was {usual:.3g}.",
        ("optim.max_grad_norm=1", f"optim.lr={min(lr / 10, SAFE_LR):.2g}", "optim.warmup=0.2"),
        {"optim.max_grad_norm": 1.0, "optim.lr": min(lr / 10, SAFE_LR)},
    )


def _too_high(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    ratio = min(max(look.ratios.values(), default=0.0) for look in last)
    stuck = min(look.loss for look in last) > 0.9 * looks[0].loss
    if not (ratio > TOO_HIGH and stuck):
        return None
    return Diagnosis(
        "lr_too_high",
        f"the learning rate is too high: one update changes a layer by {ratio:.0%} of its weights, and the loss does "
        f"not fall ({looks[0].loss:.3g}, now {last[-1].loss:.3g}).",
        (f"optim.lr={min(lr / 10, SAFE_LR):.2g}", "optim.warmup=0.2"),
        {"optim.lr": min(lr / 10, SAFE_LR)},
    )


def _symmetric(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    alike = set.intersection(*(set(look.alike) for look in last))
    if not alike:
        return None
    return Diagnosis(
        "symmetric_head",
        f"all units of {', '.join(sorted(alike))} are alike and learn the same, since their weights began alike.",
        ("model.initializer=glorot_uniform", "model.initializer=he_uniform"),
        {"model.initializer": "glorot_uniform"},
    )


def _dead(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    shares = {name: min(look.silent.get(name, 0.0) for look in last) for name in last[-1].silent}
    name = max(shares, key=lambda one: shares[one], default=None)
    if name is None or shares[name] < MOST_SILENT:
        return None
    return Diagnosis(
        "dead_head",
        f"{shares[name]:.0%} of the units of {name} pass no gradient for any row: they are dead or saturated.",
        ("model.head.activation=gelu", "model.initializer=he_uniform", f"optim.lr={lr / 10:.2g}"),
        {"model.head.activation": "gelu", "model.initializer": "he_uniform"},
    )


def _vanishing(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    # the embeddings' gradients are of another size: few of their rows get any
    body = [layer for layer in layers if layer not in (HEAD, EMBEDDINGS)]
    body = [layer for layer in body if all(layer in look.gradient for look in last)]  # some may unfreeze later
    if not body or not all(HEAD in look.gradient for look in last):
        return None
    shares = [max(look.gradient[layer] for layer in body) / max(look.gradient[HEAD], 1e-30) for look in last]
    if max(shares) > VANISHED:
        return None
    return Diagnosis(
        "vanishing",
        f"gradients vanish: the layers of the body get {median(shares):.1e} of those of the head.",
        ("model.head.activation=relu", "model.initializer=he_uniform", "model.head.hidden=[]"),
        {"model.head.activation": "relu", "model.initializer": "he_uniform"},
    )


def _too_low(
    looks: Sequence[GradientSnapshot], last: Sequence[GradientSnapshot], lr: float, layers: Sequence[str]
) -> Diagnosis | None:
    highest = max(max(look.ratios.values(), default=0.0) for look in looks)
    if len(looks) < 3 * LOOKS or highest > TOO_LOW or lr > SAFE_LR:
        return None
    return Diagnosis(
        "lr_too_low",
        f"the learning rate is too low: no update changes a layer by more than {highest:.1e} of its weights.",
        (f"optim.lr={max(lr * 10, 2e-5):.2g}",),
        {"optim.lr": max(lr * 10, 2e-5)},
        grave=False,
    )


class GradientMonitor:
    """Looks at a model's gradients, weights and updates, one look at a time.

    `before` is called when gradients stand and before the update, `after` after it.
    """

    def __init__(self, model: nn.Module, parts: Parts, head: nn.Module | None) -> None:
        self._model, self._parts, self._head = model, parts, head
        self._weights: dict[str, list[Tensor]] = {}
        self._gradient: dict[str, float] = {}
        self._before: list[tuple[str, list[Tensor], list[Tensor]]] = []
        self._silent: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def open(self) -> None:
        """Listen to the head's activations in the batches that follow."""
        self._silent.clear()
        for name, module in self._head.named_modules() if self._head is not None else ():
            if silent(module, torch.zeros(1, 1)) is not None:
                self._hooks.append(module.register_forward_hook(self._hear(name)))

    def before(self) -> None:
        """Take the gradients' norms, and the weights that the update will change."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._before, self._gradient = [], {}
        for part, weights in self._trained().items():
            self._gradient[part] = _norm([weight.grad for weight in weights if weight.grad is not None])
            self._before.append((part, weights, [weight.detach().clone() for weight in weights]))

    def after(self, update: int, loss: float, lr: float) -> GradientSnapshot:
        """The look, once the update is made."""
        weight = {part: _norm(was) for part, _, was in self._before}
        for _, now, was in self._before:
            torch._foreach_sub_(was, [one.detach() for one in now])
        changed = {part: _norm(was) for part, _, was in self._before}
        shares = {name: float(units.float().mean()) for name, units in self._silent.items()}
        look = GradientSnapshot(update, loss, lr, dict(self._gradient), weight, changed, shares, tuple(self._alike()))
        self._before = []
        return look

    def first_not_finite(self) -> str | None:
        """The first gradient or weight, in the model's order, that holds a number that is none."""
        for name, weight in self._model.named_parameters():
            if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
                return f"the gradient of {name}"
            if not bool(torch.isfinite(weight).all()):
                return f"the weight {name}"
        return None

    def _trained(self) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for name, weight in self._model.named_parameters():
            if weight.requires_grad:
                found.setdefault(self._parts.name(self._parts.depth.get(name, 0)), []).append(weight)
        order = {self._parts.name(depth): depth for depth in range(self._parts.layers + 2)}
        return dict(sorted(found.items(), key=lambda one: order[one[0]]))

    def _alike(self) -> list[str]:
        layers = [
            (name, layer)
            for name, layer in (self._head.named_modules() if self._head is not None else ())
            if isinstance(layer, nn.Linear)
        ]
        # a layer of one unit, or the output layer, cannot be told from one that learns
        return [
            f"{HEAD}.{name}"
            for name, layer in layers[:-1]
            if len(layer.weight) > 1 and _spread(layer.weight.detach()) < ALIKE
        ]

    def _hear(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
            now = silent(module, outputs.detach())
            if now is not None:
                key = f"{HEAD}.{name}" if name else HEAD
                self._silent[key] = now & self._silent[key] if key in self._silent else now

        return hook


def _spread(weight: Tensor) -> float:
    """How far the rows are from their mean, over how long they are: about 1 where they were drawn at random."""
    return float((weight - weight.mean(dim=0)).norm() / weight.norm().clamp(min=1e-12))


def _norm(tensors: Sequence[Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))))
