"""Everything that is known of a run before it trains: settings checked, rows read and tokenized, updates counted.

Knows: what is refused beforehand, and what is inferred where a config is silent.
Does not know: training, what is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checks import check_choices, check_run
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.hub import fetched
from finetune.core.target_scale import TargetScale
from finetune.core.tokenization import TextEncoder
from finetune.core.weight_files import check_weights
from finetune.data.load import Splits, load_splits
from finetune.data.near_duplicates import NearDuplicates
from finetune.data.near_duplicates import find as near_duplicates_of
from finetune.data.rows import Rows
from finetune.data.tokenized import Tokens
from finetune.data.tokenizer_report import TokenizerReport, look
from finetune.reports import report
from finetune.training.batch_plan import BatchPlan, batch_plan_for
from finetune.training.objective import Objective

if TYPE_CHECKING:
    from finetune.training.trainer import Examples

LR_AT_WIDTH, LR_WIDTH = 5e-5, 768
"""Default learning rate, and the width of the base it is for; it falls in proportion to the width."""

HEAD_FASTER, HEAD_LR = 10, 1e-3
"""How many times faster the new head learns than the body, and the rate up to which it does."""


@dataclass(frozen=True)
class Plan:
    """What a run would do, known before any training; `config` has what was inferred written in."""

    config: TrainConfig
    splits: Splits
    fit: TokenizerReport
    near: NearDuplicates
    lengths: report.Lengths
    regime: BatchPlan
    objective: Objective


def quiet() -> None:
    """Have transformers and torch keep their remarks to themselves: what matters is said as an event."""
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch")


def plan(config: TrainConfig, data: Any = None) -> Plan:
    """What `train` would do, without training."""
    base = base_of(config)
    check_choices(config)
    config, splits, encoder, objective = prepared(config, base, data)
    train = examples(config, splits, objective, encoder, "train")
    found = plan_of(config, splits, objective, encoder, train, base)
    if config.resume:
        _check_resumed(found, base, encoder, train)
    return found


def work_folder(out: Path) -> Path:
    """Return the folder of the checkpoints of the run that makes `out`."""
    return out.with_name(f".{out.name}.run")


def _check_resumed(planned: Plan, base: model_folder.Location, encoder: TextEncoder, train: Examples) -> None:
    from finetune.training.attempts import resumed_from
    from finetune.training.fit import AttemptInputs

    config, splits = planned.config, planned.splits
    validation = examples(config, splits, planned.objective, encoder, "validation")
    work = work_folder(Path(config.out))
    given = AttemptInputs(base, planned.objective, encoder, train, validation, planned.regime, work, lambda event: None)
    resumed_from(config, given)


def base_of(config: TrainConfig) -> model_folder.Location:
    found = model_folder.find(config.base, config.models_dir)
    return fetched(found, config.models_dir, revision=config.model.revision)


def prepared(
    config: TrainConfig, base: model_folder.Location, data: Any
) -> tuple[TrainConfig, Splits, TextEncoder, Objective]:
    from finetune.modeling.build import base_config, body_config

    # the base is looked at first: a wrong name should not cost the reading of a large table
    if base.path is not None:
        check_weights(base.path)
    described = base_config(base)
    splits = load_splits(config.data, seed=config.seed, data=data)
    encoder = TextEncoder.load(
        base.source,
        described.to_dict(),
        max_length=config.data.max_length,
        truncation="only_first"
        if splits.labels.nli is not None and splits.train.pairs is not None
        else "longest_first",
    )
    objective = Objective.of(config, splits.labels, splits.train.values, splits.target)
    return _resolved(config, body_config(described), objective, encoder), splits, encoder, objective


def _resolved(config: TrainConfig, base: Any, objective: Objective, encoder: TextEncoder) -> TrainConfig:
    """The config with what was inferred written in, so that training with it repeats the run."""
    lr = config.optim.lr or usual_lr(base)
    head_lr = config.optim.head_lr or max(lr, min(HEAD_FASTER * lr, HEAD_LR))
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"task": objective.labels.task, "max_length": encoder.max_length}),
            "optim": config.optim.model_copy(update={"lr": lr, "head_lr": head_lr}),
            "loss": objective.loss,
        }
    )


def usual_lr(body: Any) -> float:
    """Return the learning rate that suits a body with this transformers config."""
    width = int(getattr(body, "hidden_size", 0) or getattr(body, "dim", 0) or LR_WIDTH)
    return LR_AT_WIDTH * LR_WIDTH / width


def plan_of(
    config: TrainConfig,
    splits: Splits,
    objective: Objective,
    encoder: TextEncoder,
    train: Examples,
    base: model_folder.Location,
) -> Plan:
    from finetune.training.fit import built_for

    fit = look(encoder, splits.train.texts, train.tokens, base=config.base, seed=config.seed)
    near = near_duplicates_of(splits.by_name())
    splits = replace(splits, counts=splits.counts | near.counts)
    lengths = report.Lengths(train.tokens.lengths.tolist(), encoder.max_length, fit.truncated)
    measured = config.optim.batch_size == "auto"
    model = built_for(config, base, objective, train.targets).model if measured else None
    regime = batch_plan_for(config, train.tokens.lengths, train.targets, splits.labels.task, model)
    objective.targets_of(splits.validation)
    check_run(config, base, splits, rows=regime.batches.batch_size)
    return Plan(config, splits, fit, near, lengths, regime, objective)


def examples(config: TrainConfig, splits: Splits, objective: Objective, encoder: TextEncoder, name: str) -> Examples:
    """Return the rows of a split as they are trained on; raises as `Objective.targets_of` does."""
    from finetune.training.trainer import Examples

    rows = splits.by_name()[name]
    targets = objective.targets_of(rows)
    if splits.target is not None:
        _check_precision(config, splits.target)
    return Examples(tokens_of(encoder, rows), targets)


def _check_precision(config: TrainConfig, target: TargetScale) -> None:
    if not target.survives_float32:
        raise ConfigError(
            f"the targets lie from {target.low:.10g} to {target.high:.10g}, and a saved model gives numbers with seven "
            f"digits, too few to tell them apart (standard deviation {target.std:.3g}): subtract a number near "
            f"{target.mean:.10g} from the label column"
        )
    if config.save_dtype == "bfloat16" and not target.survives_bfloat16:
        raise ConfigError(
            f"save_dtype=bfloat16 keeps three digits of a number, too few for targets from {target.low:g} to "
            f"{target.high:g} (standard deviation {target.std:g}): use save_dtype=float32"
        )


def tokens_of(encoder: TextEncoder, rows: Rows) -> Tokens:
    return Tokens(rows.texts, rows.pairs, encoder)
