"""Checks of the settings before training: alone, and with the base, the labels and the validation rows.

Heads, optimizers and schedules other than the defaults are built once at a tiny size, so that their own code checks
their options. Faults of a table are raised where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from finetune.config.choice import Choice
from finetune.config.data import DataConfig
from finetune.config.model import ModelConfig
from finetune.config.optim import OptimConfig
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.device import torch_device
from finetune.core.errors import ConfigError, FinetuneError
from finetune.core.labels import LabelSpace
from finetune.core.registry import pick
from finetune.core.task import Task
from finetune.data.load import Splits, read_source
from finetune.evaluation.calibration import method_of
from finetune.evaluation.conformal import check_coverage
from finetune.evaluation.evaluate import decided
from finetune.evaluation.metrics import METRICS, METRICS_OF_TASK, SCORE_METRICS, UNFIT, best_by, load_metric
from finetune.evaluation.thresholds import THRESHOLDS, check_thresholds
from finetune.modeling import heads
from finetune.modeling.heads import HEADS, STOCK
from finetune.modeling.initializers import INITIALIZERS, initialize
from finetune.modeling.poolings import POOLINGS
from finetune.training import processes, trackers
from finetune.training.auxiliary_losses import AUXILIARY
from finetune.training.few_shot import AUTO, FEW_SHOT
from finetune.training.few_shot_run import HEAD, ways_of
from finetune.training.losses import LOSSES, default_loss, loss_for
from finetune.training.optim import OPTIMIZERS, SCHEDULES, frozen_depths, parts_of, weight_decay_of
from finetune.training.run_identity import check_allowed

TINY_WIDTH, TINY_OUTPUTS, TINY_UPDATES = 8, 3, 10


WINDOW_AND_DECISIONS = (
    "thresholds and coverage are fitted on truncated texts, and would not hold for texts that are read in windows: "
    "leave out window, or the two of them"
)


def check_settings(config: TrainConfig) -> None:
    """Raise for settings that are invalid whatever the data.

    Raises:
        ConfigError: a device that this machine has not, an unknown name or option, a value out of range, settings that
            do not go together.
        MissingExtra: a setting needs a package that is not installed; names the install line.
    """
    torch_device(config.device)
    if processes.count() > 1:
        _check_for_processes(config)
    optim, model = config.optim, config.model
    pooling = Choice(name=model.pooling) if model.pooling is not None else None
    choices: tuple[tuple[str, Mapping[str, Any], Choice | None], ...] = (
        ("loss", LOSSES, config.loss),
        ("optimizer", OPTIMIZERS, optim.optimizer),
        ("schedule", SCHEDULES, optim.schedule),
        ("head", HEADS, model.head),
        ("pooling", POOLINGS, pooling),
        ("initializer", INITIALIZERS, model.initializer),
        ("thresholds", THRESHOLDS, config.thresholds),
        *(("auxiliary term", AUXILIARY, choice) for choice in config.auxiliary),
    )
    _check_few_shot(config)
    for what, table, choice in choices:
        if choice is not None:
            pick(table, choice.name, choice.options, what=what)
    if config.loss is not None:
        # whether labels are soft is known only once the table is read
        loss_for(config.data.task or _any_task_of(config.loss), config.loss)
    check_allowed(config.allow_changed)
    weight_decay_of(optim)
    _build_head(config)
    _build_optimizer(config)
    trackers.require_installed(config.report_to)
    if config.data.task is not None:
        _check_metrics(config, config.data.task)
    _check_lora(model)
    _check_weight(config)
    _check_window(config)
    if model.head.name != STOCK and config.zero_shot.attention == "alternate":
        raise ConfigError("zero_shot.attention=alternate needs the base's own head: leave out model.head")


def _check_for_processes(config: TrainConfig) -> None:
    """Raise for settings that only one process can follow."""
    alone = {
        "few_shot": (config.few_shot is not None, "trains on few rows"),
        "base=auto": (config.base == "auto", "ranks bases: run `rehead bases` first, and name its recommendation"),
        "optim.batch_size=auto": (config.optim.batch_size == "auto", "measures free memory: give the rows per process"),
    }
    for setting, (is_set, why) in alone.items():
        if is_set:
            raise ConfigError(f"{setting} runs in one process, and {processes.count()} were started; it {why}")


def _check_few_shot(config: TrainConfig) -> None:
    """Raise for an unknown way, and for settings that few-shot training would ignore."""
    if config.few_shot is None:
        return
    pick(FEW_SHOT | {AUTO: _auto}, config.few_shot.name, config.few_shot.options, what="few_shot")
    model = config.model.model_copy(update={"revision": None})
    if model not in (ModelConfig(), HEAD):
        raise ConfigError("few_shot trains a linear head on mean pooling: leave out the settings of model")
    defaults = TrainConfig(base=config.base, out=config.out)
    for name in ("class_weights", "auxiliary", "optim", "gradients", "checkpoint", "report_to", "zero_shot"):
        if getattr(config, name) != getattr(defaults, name):
            raise ConfigError(f"few_shot does not use {name}: leave out one of the two")
    if config.loss not in (None, Choice(name=default_loss("multiclass", soft_labels=False))):
        raise ConfigError("few_shot has losses of its own: leave out loss")


def _auto() -> None:
    """The best of the others in cross-validation"""


def _check_weight(config: TrainConfig) -> None:
    if config.data.weight is not None and config.auxiliary:
        raise ConfigError("data.weight is for the loss, and auxiliary terms count all rows the same: leave one out")


def _check_window(config: TrainConfig) -> None:
    if config.window is None:
        return
    if config.thresholds is not None or config.coverage is not None:
        raise ConfigError(WINDOW_AND_DECISIONS)
    several = "window makes several rows of a long text"
    if config.auxiliary:
        raise ConfigError(f"{several}, and auxiliary terms count all rows the same: leave one out")
    if config.optim.sampler == "balanced":
        raise ConfigError(
            f"{several}, among which optim.sampler=balanced would draw: use class_weights=balanced in its place"
        )
    if config.few_shot is not None:
        raise ConfigError("few_shot trains on truncated texts: leave out window, which a request can set as well")


def _check_lora(model: ModelConfig) -> None:
    if model.lora is None:
        return
    from finetune.modeling.lora import peft_module

    peft_module()
    if model.freeze != "none" or model.unfreeze:
        raise ConfigError("model.lora trains additions to a frozen body: leave out model.freeze and model.unfreeze")


def check_run(config: TrainConfig, base: model_folder.Location, splits: Splits, *, rows: int) -> None:
    """Raise for settings that do not suit the base, the table's task or its validation rows.

    Args:
        rows: number of rows in one batch.

    Raises:
        FinetuneError: names the setting.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    from finetune.modeling.build import head_of, regression_layer, without_weights
    from finetune.modeling.lora import layers_of

    labels = splits.labels
    if config.few_shot is not None:
        ways_of(config.few_shot, base, labels, splits.train)
    _check_metrics(config, labels.task)
    _check_scores(config, labels)
    _require_defined(best_by(config.checkpoint.best_by, labels.task), splits)
    model = without_weights(base, labels, config.model)
    if processes.count() > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ConfigError(
            "batch normalization takes its statistics from the rows of one process, so that several would train other "
            "models: --set model.head.norm=layer, or run one process"
        )
    if labels.task == "regression":
        regression_layer(model)
    if config.model.lora is None:
        frozen_depths(config.model, parts_of(model, model.base_model_prefix), 0)
    else:
        new = [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]
        layers_of(model, new, config.model.lora)
    head = head_of(model)
    if head is not None:
        heads.warnings_of(head, rows, alike=False)
    if labels.nli is not None:
        for source in config.zero_shot.fit_on:
            read_source(source, DataConfig(), seed=config.seed)


def _check_scores(config: TrainConfig, labels: LabelSpace) -> None:
    if labels.nli is not None and config.calibration not in ("auto", "none"):
        raise ConfigError(
            "calibration is for a model's own labels, and this run trains a zero-shot model: leave it out"
        )
    method_of(config.calibration, labels.task)
    check_thresholds(config.thresholds, labels)
    check_coverage(config.coverage, labels)


def _any_task_of(loss: Choice) -> Any:
    """Return a task that the loss is for."""
    from finetune.training.losses import FITS

    return FITS[loss.name].tasks[0]


def _check_metrics(config: TrainConfig, task: Task) -> None:
    for name in config.metrics:
        if name in UNFIT[task]:
            fitting = [other for other in (*METRICS, *SCORE_METRICS) if other not in UNFIT[task]]
            raise ConfigError(
                f"metrics: {name!r} does not fit task {task.replace('_', '-')}: choose from {', '.join(fitting)}"
            )
        load_metric(name, task)
    best_by(config.checkpoint.best_by, task)


def _require_defined(name: str, splits: Splits) -> None:
    """Raise for a metric that is undefined on the validation rows, such as ROC-AUC where they have one label only."""
    if name not in SCORE_METRICS:
        return
    labels = splits.labels
    references = labels.encode(splits.validation.values)
    even = np.full((len(references), len(labels)), 1 / len(labels))
    _, truth = decided(even, references, labels.task)
    if not np.isfinite(SCORE_METRICS[name](even, truth)):
        headline = METRICS_OF_TASK[labels.task][0]
        raise ConfigError(
            f"checkpoint.best_by: {name} is undefined on the {len(references)} validation rows, which lack labels that "
            f"it needs: raise data.validation_size, or set checkpoint.best_by={headline}"
        )


def _build_head(config: TrainConfig) -> None:
    from torch import nn

    model = config.model
    if model.head.name != STOCK:
        with _naming("model.head"):
            pick(HEADS, model.head.name, model.head.options, what="head")(TINY_WIDTH, TINY_OUTPUTS)
    elif model.pooling is not None:
        raise ConfigError(
            "model.pooling does not apply to the base's own head: --set model.head=linear, or leave it out"
        )
    if model.initializer is not None:
        with _naming("model.initializer"):
            fill = pick(INITIALIZERS, model.initializer.name, model.initializer.options, what="initializer")
            initialize(nn.Linear(TINY_WIDTH, TINY_OUTPUTS), fill)


def _build_optimizer(config: TrainConfig) -> None:
    """Build optimizer and schedule, unless both are the defaults, which need no check: building them imports
    transformers, which takes seconds."""
    optim, usual = config.optim, OptimConfig()
    if (optim.optimizer, optim.schedule) == (usual.optimizer, usual.schedule):
        return
    import torch

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": optim.lr or 1e-4, "weight_decay": 0.0, "l2": 0.0}]
    with _naming("optim.optimizer"):
        optimizer = pick(OPTIMIZERS, optim.optimizer.name, optim.optimizer.options, what="optimizer")(groups)
    with _naming("optim.schedule"):
        pick(SCHEDULES, optim.schedule.name, optim.schedule.options, what="schedule")(optimizer, 1, TINY_UPDATES)


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """Turn an error of torch or transformers about a value into a ConfigError that names the setting."""
    try:
        yield
    except FinetuneError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"{setting}: {' '.join(str(error).split())}") from error
