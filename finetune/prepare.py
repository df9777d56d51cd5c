"""Prepare a training run: check the settings, read and tokenize the rows, count the updates.

Nothing is trained or written here. `--dry-run`, the web UI's data report and `run.train` call the same `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checks import check_run, check_settings
from finetune.config.optim import faster_head_lr
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.events import Info, Listener, Warned
from finetune.core.hub import download
from finetune.core.target_scale import TargetScale
from finetune.core.tokenization import TextEncoder
from finetune.core.weight_files import check_weights
from finetune.core.windows import Window
from finetune.data import near_duplicates, tokenizer_report
from finetune.data.load import Splits, load_splits
from finetune.data.near_duplicates import NearDuplicates
from finetune.data.row_weights import scaled_weights
from finetune.data.rows import Rows
from finetune.data.tokenized import Tokens
from finetune.data.tokenizer_report import TokenizerReport
from finetune.data.windowed import check_window, in_windows
from finetune.training import processes
from finetune.training.batch_plan import BatchPlan, batch_plan_for
from finetune.training.few_shot import AUTO
from finetune.training.few_shot_run import HEAD, are_few
from finetune.training.objective import Objective

if TYPE_CHECKING:
    from finetune.modeling.kept_head import HeadPlan
    from finetune.training.examples import Examples
    from finetune.training.fit import AttemptInputs

LR_AT_WIDTH, LR_WIDTH = 5e-5, 768
"""Default learning rate, and the width of the base it is for; it falls in proportion to the width."""


@dataclass(frozen=True)
class Prepared:
    """A run before its first update.

    Attributes:
        config: the settings, with every inferred value written in: training with them repeats the run.
        base: where the base model is.
        splits: checked rows, labels and counts.
        objective: labels, loss, output activation and class weights.
        encoder: the base's tokenizer, at the run's maximum length.
        train: token ids and targets of the training rows, or of their windows.
        validation: the same of the validation rows.
        tokenizer_report: how well the tokenizer suits the texts.
        near_duplicates: texts that nearly repeat one another.
        batch_plan: batches and number of updates.
        head: what is kept of the base's head.
    """

    config: TrainConfig
    base: model_folder.Location
    splits: Splits
    objective: Objective
    encoder: TextEncoder
    train: Examples
    validation: Examples
    tokenizer_report: TokenizerReport
    near_duplicates: NearDuplicates
    batch_plan: BatchPlan
    head: HeadPlan

    @property
    def warnings(self) -> list[str]:
        """Possible mistakes in the data, and reasons why the base may not suit it."""
        return [*self.splits.warnings, *self.tokenizer_report.warnings]

    def attempt_inputs(self, work: Path, emit: Listener) -> AttemptInputs:
        """Return what an attempt at training reads, with `work` as the folder of its checkpoints."""
        from finetune.training.fit import AttemptInputs

        rows = (self.train, self.validation)
        return AttemptInputs(self.base, self.objective, self.encoder, *rows, self.batch_plan, work, emit, self.head)


def prepare(
    config: TrainConfig, data: Any = None, emit: Listener = lambda event: None, *, splits: Splits | None = None
) -> Prepared:
    """Check a run and return everything known of it before training.

    Args:
        data: an in-memory table in place of `config.data.train`, as in `run.train`.
        splits: rows that were read already, in place of those tables.
        emit: called with an event for each choice made and each warning, as soon as it is known.

    Raises:
        FinetuneError: settings, data, base or checkpoints that cannot be used; names the setting or the row.
    """
    # 1. Settings alone, then the files of the base: a mistake there should not cost the reading of a large table.
    check_settings(config)
    if config.base == "auto":
        config = _with_recommended_base(config, data, emit)
    base = base_of(config)
    if base.path is not None:
        check_weights(base.path)

    # 2. The table: columns, task, labels, splits.
    if splits is None:
        config, splits = _read(config, data, emit)
    _emit(emit, splits.notes, splits.warnings)
    if config.few_shot is not None:
        config = config.model_copy(update={"model": HEAD.model_copy(update={"revision": config.model.revision})})

    # 3. The tokenizer, and the defaults that depend on base and table. A mistake in the table should not cost the
    # import of transformers, which takes seconds.
    from finetune.modeling.build import base_config, body_config
    from finetune.modeling.kept_head import plan_head

    described = base_config(base)
    keeps_hypothesis = splits.labels.nli is not None and splits.train.pairs is not None
    encoder = TextEncoder.load(
        base.source,
        described.to_dict(),
        max_length=config.data.max_length,
        truncation="only_first" if keeps_hypothesis else "longest_first",
    )
    if config.window is not None:
        check_window(encoder, config.window.window())
    objective = Objective.of(config, splits.labels, splits.train.values, splits.target, scaled_weights(splits.train))
    head = plan_head(base, described, splits.labels, objective.activation, config.model)
    _emit(emit, [str(head)] if str(head) else [], ())
    config = _resolved(config, body_config(described), objective, encoder, head)

    # 4. Token ids and targets, and how well the tokenizer suits the texts.
    train, validation = (_examples(config, splits, objective, encoder, name) for name in ("train", "validation"))
    if len(train) != len(splits.train):
        emit(Info(f"window: {len(splits.train):,} training texts are read as {len(train):,} windows"))
    fit = tokenizer_report.tokenizer_report(
        encoder, splits.train.texts, train.tokens, base=config.base, seed=config.seed
    )
    # they are only reported, which process 0 does
    near = near_duplicates.find(splits.distinct()) if processes.is_main() else NearDuplicates([], 0, 0)
    splits = replace(splits, counts=splits.counts | near.counts)
    _emit(emit, [str(near), str(fit)], fit.warnings)

    # 5. Batches and updates, and the settings that depend on all of the above.
    plan = _batch_plan(config, base, objective, train, head)
    check_run(config, base, splits, rows=plan.batches.batch_size)
    prepared = Prepared(config, base, splits, objective, encoder, train, validation, fit, near, plan, head)
    if config.resume:
        _require_same_run(prepared)
    return prepared


def _read(config: TrainConfig, data: Any, emit: Listener) -> tuple[TrainConfig, Splits]:
    """Return the splits of a run, and its config: without `few_shot: auto` where the rows are not few.

    Few-shot training without a validation table keeps all rows to train on, and scores them by cross-validation.
    """
    whole = load_splits(config.data, seed=config.seed, data=data, whole=config.few_shot is not None)
    if config.few_shot is None:
        return config, whole
    if config.few_shot.name == AUTO and not are_few(whole.train, whole.labels):
        each = len(whole.train) / len(whole.labels)
        emit(Info(f"few_shot: {each:.0f} rows of a label are not few: all of the encoder is fine-tuned as usual"))
        config = config.model_copy(update={"few_shot": None})
        return config, load_splits(config.data, seed=config.seed, data=data)
    if len(whole.validation):
        return config, whole
    note = "no validation table: every training row is scored by a model of the other folds"
    return config, replace(whole, validation=whole.train, notes=[*whole.notes, note])


def _with_recommended_base(config: TrainConfig, data: Any, emit: Listener) -> TrainConfig:
    """Return the config with the base that `rank_bases` recommends for its table."""
    from finetune.bases import rank_bases

    ranking = rank_bases(
        data, columns=config.data, seed=config.seed, models_dir=config.models_dir, device=config.device
    )
    emit(Info(f"base: {ranking.recommendation}"))
    return config.model_copy(update={"base": ranking.recommended})


def work_folder(out: Path) -> Path:
    """Return the folder of the checkpoints of the run that writes `out`."""
    return out.with_name(f".{out.name}.run")


def base_of(config: TrainConfig) -> model_folder.Location:
    """Return the base model's location, downloaded from the Hub where the config names a Hub id."""
    location = model_folder.find(config.base, config.models_dir)
    return download(location, config.models_dir, revision=config.model.revision)


def usual_lr(body: Any) -> float:
    """Return the learning rate that suits a body with this transformers config."""
    width = int(getattr(body, "hidden_size", 0) or getattr(body, "dim", 0) or LR_WIDTH)
    return LR_AT_WIDTH * LR_WIDTH / width


def tokens_of(encoder: TextEncoder, rows: Rows) -> Tokens:
    """Return the token ids of a split's rows."""
    return Tokens(rows.texts, rows.pairs, encoder)


def window_of_texts(config: TrainConfig, rows: Rows) -> Window | None:
    """Return how the texts of a split are read; None where they are read whole, as pairs are."""
    return None if config.window is None or rows.pairs is not None else config.window.window()


def _emit(emit: Listener, notes: Iterable[str], warnings: Iterable[str]) -> None:
    for sentence in notes:
        emit(Info(sentence))
    for sentence in warnings:
        emit(Warned(sentence))


def _resolved(
    config: TrainConfig, body: Any, objective: Objective, encoder: TextEncoder, head: HeadPlan
) -> TrainConfig:
    """Return the config with inferred values written in, so that training with it repeats the run."""
    data = config.data.model_copy(update={"task": objective.labels.task, "max_length": encoder.max_length})
    if config.few_shot is not None:
        return config.model_copy(update={"data": data})
    lr = config.optim.lr or usual_lr(body)
    head_lr = config.optim.head_lr or (lr if head.is_whole else faster_head_lr(lr))
    return config.model_copy(
        update={
            "data": data,
            "optim": config.optim.model_copy(update={"lr": lr, "head_lr": head_lr}),
            "loss": objective.loss,
        }
    )


def _batch_plan(
    config: TrainConfig, base: model_folder.Location, objective: Objective, train: Examples, head: HeadPlan
) -> BatchPlan:
    from finetune.training.fit import built_for

    model = None
    if config.optim.batch_size == "auto":  # measured on the model itself
        model = built_for(config, base, objective, train, head).model
    return batch_plan_for(config, train.tokens.lengths, train.targets, objective.labels.task, model)


def _require_same_run(prepared: Prepared) -> None:
    """Raise ConfigError if the checkpoints to resume from were made by another run."""
    from finetune.training.attempts import resumed_from

    work = work_folder(Path(prepared.config.out))
    resumed_from(prepared.config, prepared.attempt_inputs(work, lambda event: None))


def _examples(config: TrainConfig, splits: Splits, objective: Objective, encoder: TextEncoder, name: str) -> Examples:
    """Return the rows of a split as they are trained on; raises as `Objective.targets_of` does."""
    from finetune.training.examples import Examples

    rows = splits.by_name()[name]
    if name == "train" and (window := window_of_texts(config, rows)) is not None:
        rows, _ = in_windows(rows, encoder, window)
    targets = objective.targets_of(rows)
    if splits.target is not None:
        _check_precision(config, splits.target)
    return Examples(tokens_of(encoder, rows), targets, scaled_weights(rows))


def _check_precision(config: TrainConfig, target: TargetScale) -> None:
    if not target.survives_float32:
        raise ConfigError(
            f"the targets lie from {target.low:.10g} to {target.high:.10g}, and a saved model returns numbers with "
            f"seven digits, too few to tell them apart (standard deviation {target.std:.3g}): subtract a number near "
            f"{target.mean:.10g} from the label column"
        )
    if config.save_dtype != "float32" and not target.survives_bfloat16:
        raise ConfigError(
            f"save_dtype={config.save_dtype} keeps three digits of a number, too few for targets from {target.low:g} "
            f"to {target.high:g} (standard deviation {target.std:g}): use save_dtype=float32"
        )
