"""Parts of a model, freezing, parameter groups, optimizers and schedules, for any encoder of transformers; the tables
OPTIMIZERS and SCHEDULES close the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from finetune.config.model import ModelConfig
from finetune.config.optim import OptimConfig
from finetune.core.errors import ConfigError
from finetune.core.registry import pick

WEIGHT_DECAY = 0.01
"""Default decoupled weight decay of the optimizers that have it."""

HEAD, EMBEDDINGS = "head", "embeddings"
Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """The depth of each weight of a model: 0 the embeddings, 1 .. `layers` the body's layers, `layers` + 1 the head and
    whatever a body has above its last layer."""

    depth: Mapping[str, int]
    layers: int

    def name(self, depth: int) -> str:
        """Return the name of a depth in logs and plots."""
        return EMBEDDINGS if depth == 0 else HEAD if depth > self.layers else f"layer {depth}"


def parts_of(model: nn.Module, prefix: str) -> Parts:
    """Return the parts of a classifier whose body is the attribute `prefix`."""
    stacks = [
        (name, len(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and f"{prefix}." in f"{name}."
    ]
    stack, layers = max(stacks, key=lambda item: item[1], default=("", 0))
    in_layer = re.compile(re.escape(stack) + r"\.(\d+)\.")
    depth = {}
    for name, _ in model.named_parameters():
        match = in_layer.search(name) if stack else None
        if match is not None:
            depth[name] = int(match.group(1)) + 1
        else:
            # every family calls what precedes the layers embeddings (deberta's relative ones are elsewhere)
            depth[name] = 0 if f"{prefix}." in name and "embeddings" in name else layers + 1
    return Parts(depth, layers)


def frozen_depths(config: ModelConfig, parts: Parts, epoch: int) -> set[int]:
    """Return the depths of a model that are frozen in this epoch, counted from 0.

    Raises:
        ConfigError: the config names more layers than the body has.
    """
    below = {"none": 0, EMBEDDINGS: 1, "body": parts.layers + 1}
    count = below[config.freeze] if isinstance(config.freeze, str) else config.freeze + 1
    most = max([*config.unfreeze.values(), *([config.freeze] if isinstance(config.freeze, int) else [])], default=0)
    if most > parts.layers:
        raise ConfigError(f"model.freeze or model.unfreeze names {most} layers, and the body has {parts.layers}")
    due = [epoch_ for epoch_ in config.unfreeze if epoch_ <= epoch]
    if due:
        trained = config.unfreeze[max(due)]
        count = 0 if trained >= parts.layers else parts.layers + 1 - trained
    return set(range(count))


def freeze(model: nn.Module, parts: Parts, frozen: Iterable[int]) -> None:
    """Freeze the weights at these depths, and no others."""
    depths = set(frozen)
    for name, weight in model.named_parameters():
        weight.requires_grad_(parts.depth[name] not in depths)


def trained(model: nn.Module, parts: Parts) -> str:
    """Return a sentence with the number of trainable weights by part."""
    counts: dict[str, int] = {}
    total = 0
    for name, weight in model.named_parameters():
        total += weight.numel()
        if weight.requires_grad:
            part = parts.name(parts.depth[name]) if name in parts.depth else "additions"
            part = "layers" if part.startswith("layer ") else part
            counts[part] = counts.get(part, 0) + weight.numel()
    shown = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"training {sum(counts.values()):,} of {total:,} weights: {shown}"


def groups_of(model: nn.Module, parts: Parts, config: OptimConfig) -> Groups:
    """Return parameter groups: a learning rate for each depth, weight decay except for biases and norms.

    Weights that a later epoch unfreezes are included.
    """
    if config.lr is None:
        raise ConfigError("optim.lr is not resolved")
    decay = weight_decay_of(config)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        depth = parts.depth.get(name, parts.layers + 1)
        if depth > parts.layers:
            lr = config.head_lr or config.lr
        else:
            lr = config.lr * config.layer_decay ** (parts.layers - depth)
        decays = weight.dim() > 1  # biases and the weights of norms are vectors
        group = groups.setdefault((lr, decays), {"params": [], "lr": lr, "weight_decay": decay * decays, "l2": 0.0})
        group["l2"] = config.l2 * decays
        group["params"].append(weight)
    return list(groups.values())


def weight_decay_of(config: OptimConfig) -> float:
    """Return the decoupled weight decay of a config.

    Raises:
        ConfigError: the optimizer has none.
    """
    has = config.optimizer.name in DECOUPLED
    if config.weight_decay and not has:
        raise ConfigError(
            f"optimizer {config.optimizer.name!r} has no decoupled weight decay: use optim.l2, or one of "
            f"{', '.join(DECOUPLED)}"
        )
    if not has:
        return 0.0
    return WEIGHT_DECAY if config.weight_decay is None else config.weight_decay


def optimizer_for(model: nn.Module, parts: Parts, config: OptimConfig) -> Optimizer:
    """Return the config's optimizer over `groups_of` a model; an L2 penalty is added to the gradients before each
    step."""
    make = pick(OPTIMIZERS, config.optimizer.name, config.optimizer.options, what="optimizer")
    optimizer = make(groups_of(model, parts, config))
    if config.l2:
        optimizer.register_step_pre_hook(_penalize)
    return optimizer


def _penalize(optimizer: Optimizer, *rest: Any) -> None:
    with torch.no_grad():
        for group in optimizer.param_groups:
            for weight in group["params"] if group["l2"] else ():
                if weight.grad is not None:
                    weight.grad.add_(weight, alpha=group["l2"])


def schedule_for(
    optimizer: Optimizer, config: OptimConfig, *, warmup: int, updates: int, lower_is_better: bool = False
) -> Any:
    """Return the config's schedule over this many updates.

    Args:
        lower_is_better: whether the metric of `reduce_on_plateau` falls as the model improves.
    """
    make = pick(SCHEDULES, config.schedule.name, config.schedule.options, what="schedule")
    schedule = make(optimizer, warmup, updates)
    if lower_is_better and isinstance(schedule, ReduceLROnPlateau):
        return ReduceLROnPlateau(optimizer, mode="min", factor=schedule.factor, patience=schedule.patience)
    return schedule


def adamw(groups: Groups, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Adam with decoupled weight decay, in torch's fused form"""
    return torch.optim.AdamW(groups, betas=(beta1, beta2), eps=epsilon, fused=True)


def adam(groups: Groups, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Steps scaled by running means of the gradient and of its square"""
    return torch.optim.Adam(groups, betas=(beta1, beta2), eps=epsilon, fused=True)


def sgd(groups: Groups, *, momentum: float = 0.9, nesterov: bool = False) -> Optimizer:
    """Gradient descent with momentum; its learning rate is about a hundred times that of Adam"""
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov)


def adafactor(groups: Groups) -> Optimizer:
    """Adam's scaling from means over rows and columns, with little memory beyond the weights"""
    return torch.optim.Adafactor(groups)


def linear(optimizer: Optimizer, warmup: int, updates: int) -> LRScheduler:
    """Linear decay to 0"""
    return _of_transformers("linear", optimizer, warmup, updates)


def cosine(optimizer: Optimizer, warmup: int, updates: int) -> LRScheduler:
    """Cosine decay to 0"""
    return _of_transformers("cosine", optimizer, warmup, updates)


def constant(optimizer: Optimizer, warmup: int, updates: int) -> LRScheduler:
    """A constant rate, without warm-up"""
    return _of_transformers("constant", optimizer, warmup, updates)


def constant_with_warmup(optimizer: Optimizer, warmup: int, updates: int) -> LRScheduler:
    """A constant rate after warm-up"""
    return _of_transformers("constant_with_warmup", optimizer, warmup, updates)


def polynomial(
    optimizer: Optimizer, warmup: int, updates: int, *, power: float = 2.0, end: float = 1e-7
) -> LRScheduler:
    """Polynomial decay to `end`"""
    return _of_transformers("polynomial", optimizer, warmup, updates, power=power, lr_end=end)


def one_cycle(optimizer: Optimizer, warmup: int, updates: int) -> LRScheduler:
    """Cosine rise during warm-up, then cosine decay (Smith, 2018)"""
    rising = min(max(warmup / updates, 1 / updates), 1.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=updates + 1, pct_start=rising)


def reduce_on_plateau(
    optimizer: Optimizer, warmup: int, updates: int, *, factor: float = 0.5, patience: int = 1
) -> Any:
    """Multiplied by `factor` after `patience` evaluations without a better validation score; no warm-up"""
    return ReduceLROnPlateau(optimizer, mode="max", factor=factor, patience=patience)


def _of_transformers(name: str, optimizer: Optimizer, warmup: int, updates: int, **more: Any) -> LRScheduler:
    from transformers import get_scheduler

    schedule: LRScheduler = get_scheduler(name, optimizer, warmup, updates, scheduler_specific_kwargs=more)
    return schedule


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": adamw, "adam": adam, "sgd": sgd, "adafactor": adafactor}
DECOUPLED = ("adamw", "adafactor")
"""Optimizers with decoupled weight decay."""

SCHEDULES: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "constant_with_warmup": constant_with_warmup,
    "polynomial": polynomial,
    "one_cycle": one_cycle,
    "reduce_on_plateau": reduce_on_plateau,
}
