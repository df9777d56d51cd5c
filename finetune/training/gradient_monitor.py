"""Gradient monitoring: snapshots of the norms of each layer's gradients, weights and updates.

An update ratio is the length of one update of a layer's weights over the length of those weights: about 1e-3 is usual,
and fine-tuning with AdamW keeps it between 1e-6 and 1e-2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from finetune.modeling.activations import silent
from finetune.training.optim import HEAD, Parts
from finetune.training.processes import in_all

ALIKE = 0.1
"""Spread of a hidden layer's units below which they are identical; dropout alone separates them slowly."""


@dataclass(frozen=True)
class GradientSnapshot:
    """Norms of all layers at one update.

    Attributes:
        gradient, weight, update: norms by part of the model.
        silent: proportion of units that pass no gradient, by layer of the head.
        alike: hidden layers whose units are identical.
    """

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
        """Return the norm of all gradients, before clipping."""
        return float(sum(value**2 for value in self.gradient.values()) ** 0.5)

    @property
    def ratios(self) -> dict[str, float]:
        """Return the update-to-weight ratio by part."""
        return {part: self.update[part] / max(self.weight[part], 1e-12) for part in self.update}

    def to_json(self) -> dict[str, Any]:
        """Return the content of one line of report/gradients.jsonl."""
        return {**asdict(self), "alike": list(self.alike), "ratio": self.ratios}


class GradientMonitor:
    """Takes snapshots of a model's gradients, weights and updates.

    Call `open` before the forward pass, `before` between the backward pass and the update, `after` after the update.
    """

    def __init__(self, model: nn.Module, parts: Parts, head: nn.Module | None) -> None:
        self._model, self._parts, self._head = model, parts, head
        self._weights: dict[str, list[Tensor]] = {}
        self._gradient: dict[str, float] = {}
        self._before: list[tuple[str, list[Tensor], list[Tensor]]] = []
        self._silent: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def open(self) -> None:
        """Observe the head's activations in the following batches."""
        self._silent.clear()
        for name, module in self._head.named_modules() if self._head is not None else ():
            if silent(module, torch.zeros(1, 1)) is not None:
                self._hooks.append(module.register_forward_hook(self._hook(name)))

    def before(self) -> None:
        """Record the gradients' norms, and copy the weights that the update will change."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._before, self._gradient = [], {}
        for part, weights in self._trained().items():
            self._gradient[part] = _norm([weight.grad for weight in weights if weight.grad is not None])
            self._before.append((part, weights, [weight.detach().clone() for weight in weights]))

    def after(self, update: int, loss: float, lr: float) -> GradientSnapshot:
        """Return the snapshot of the update that has just been made."""
        weights = {part: _norm(was) for part, _, was in self._before}
        for _, now, was in self._before:
            torch._foreach_sub_(was, [weight.detach() for weight in now])
        changed = {part: _norm(was) for part, _, was in self._before}
        silent_units = {name: float(in_all(units).float().mean()) for name, units in self._silent.items()}
        alike = tuple(self._alike())
        snapshot = GradientSnapshot(update, loss, lr, dict(self._gradient), weights, changed, silent_units, alike)
        self._before = []
        return snapshot

    def first_not_finite(self) -> str | None:
        """Return the first gradient or weight, in the model's order, that is not finite."""
        for name, weight in self._model.named_parameters():
            if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
                return f"the gradient of {name}"
            if not bool(torch.isfinite(weight).all()):
                return f"the weight {name}"
        return None

    def _trained(self) -> dict[str, list[Tensor]]:
        weights: dict[str, list[Tensor]] = {}
        for name, weight in self._model.named_parameters():
            if weight.requires_grad:
                weights.setdefault(self._parts.name(self._parts.depth.get(name, 0)), []).append(weight)
        order = {self._parts.name(depth): depth for depth in range(self._parts.layers + 2)}
        return dict(sorted(weights.items(), key=lambda item: order[item[0]]))

    def _alike(self) -> list[str]:
        layers = [
            (name, layer)
            for name, layer in (self._head.named_modules() if self._head is not None else ())
            if isinstance(layer, nn.Linear)
        ]
        # nothing can be concluded from a layer of one unit, or from the output layer
        return [
            f"{HEAD}.{name}"
            for name, layer in layers[:-1]
            if len(layer.weight) > 1 and _spread(layer.weight.detach()) < ALIKE
        ]

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
            now = silent(module, outputs.detach())
            if now is not None:
                key = f"{HEAD}.{name}" if name else HEAD
                self._silent[key] = now & self._silent[key] if key in self._silent else now

        return hook


def _spread(weight: Tensor) -> float:
    """Return the distance of the rows from their mean over their length: about 1 for random rows."""
    return float((weight - weight.mean(dim=0)).norm() / weight.norm().clamp(min=1e-12))


def _norm(tensors: Sequence[Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))))
