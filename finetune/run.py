"""The story of a training run, top to bottom, and of an evaluation.

Knows: the order of the steps, and that nothing at `out` is touched before the new folder is complete.
Does not know: how any step works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.checks import check_choices
from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.disk_space import CHECKPOINTS_ARE_WHOLE, GO_ON, full_disk_explained, writing
from finetune.core.errors import TrainingError
from finetune.core.events import Finished, Info, Listener, Saved, Warned
from finetune.core.model_folder import ClassifierSettings, ZeroShotSettings
from finetune.core.tokenization import TextEncoder
from finetune.data.load import Splits, load_splits
from finetune.data.rows import Rows
from finetune.data.tokenized import Tokens
from finetune.evaluation.baseline import tfidf_scores
from finetune.evaluation.evaluate import ScoredSplit, beside_tfidf, differences, evaluate, scored_rows
from finetune.evaluation.metrics import best_by
from finetune.modeling.build import body_config
from finetune.modeling.heads import STOCK
from finetune.modeling.lora import merged
from finetune.prepare import Plan, base_of, examples, plan_of, prepared, tokens_of, usual_lr, work_folder
from finetune.reports import report
from finetune.reports.model_card import model_card
from finetune.reports.report import ROW_NUMBERS, evaluation_json, write_evaluation
from finetune.reports.run_warnings import Verdict, verdict_of
from finetune.training import run_lock
from finetune.training.objective import Objective

if TYPE_CHECKING:
    from finetune.training.fit import TrainedModel
    from finetune.training.trainer import Examples

__all__ = ["ROW_NUMBERS", "TrainResult", "differences", "evaluate", "evaluation_json", "train", "write_evaluation"]

VERIFIED = 64
"""Validation rows whose scores must survive what is done to a trained model's weights."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gives: the model folder, the metrics by split, the counts of the data, the updates made, and what is
    said of it."""

    path: Path
    metrics: dict[str, float]
    tests: dict[str, dict[str, float]]
    data: dict[str, int]
    updates: int
    verdict: Verdict = field(default_factory=Verdict)


def train(config: TrainConfig, data: Any = None, on_event: Listener | None = None) -> TrainResult:
    """Fine-tune `config.base` on a table and write a model folder to `config.out`.

    Args:
        data: an in-memory table in place of `config.data.train`: a pandas DataFrame, a `datasets.Dataset` or
            `DatasetDict`, a list of dicts, or a dict of those by split.
        on_event: called with each event of finetune.core.events.

    Raises:
        FinetuneError: bad settings, data or base (before any training), or a run that diverged.
    """
    say, out = on_event or (lambda event: None), Path(config.out)
    if config.resume and model_folder.is_finished(out):
        say(Info(f"{out} is finished: nothing to resume"))
        return _known_result(out)
    model_folder.check_output(out, overwrite=config.overwrite)
    with run_lock.locked(out), full_disk_explained():
        return _train(config, data, say, out, work_folder(out))


def _train(config: TrainConfig, data: Any, say: Listener, out: Path, work: Path) -> TrainResult:
    from finetune.training.attempts import fit
    from finetune.training.checkpoints import last_good_checkpoint
    from finetune.training.fit import AttemptInputs

    if not config.resume and (last := last_good_checkpoint(work)) is not None:
        say(Warned(f"{last} of an earlier run will be replaced as training begins: --resume goes on from it"))

    # 1. everything that can be refused is refused before training
    check_choices(config)
    base = base_of(config)
    config, splits, encoder, objective = prepared(config, base, data)
    for sentence in splits.said:
        say(Info(sentence))
    for sentence in splits.warnings:
        say(Warned(sentence))

    # 2. texts to tokens, and what is known of them beforehand
    train, validation = (examples(config, splits, objective, encoder, name) for name in ("train", "validation"))
    planned = plan_of(config, splits, objective, encoder, train, base)
    splits = planned.splits
    say(Info(str(planned.near)))
    say(Info(str(planned.fit)))
    for sentence in planned.fit.warnings:
        say(Warned(sentence))

    # 3. train the base's body under a new head, from the last good checkpoint if that is asked for
    fitted = fit(config, AttemptInputs(base, objective, encoder, train, validation, planned.regime, work, say))
    planned = replace(planned, config=fitted.config)
    needed = sum(weight.numel() * weight.element_size() for weight in fitted.model.state_dict().values())
    with writing(work / "finished", needed, CHECKPOINTS_ARE_WHOLE):
        try:
            return _finish(planned, fitted, encoder, validation, work, out, say)
        except KeyboardInterrupt:
            say(Warned(f"interrupted after training: {work} holds its checkpoints; {GO_ON}"))
            raise


def _finish(
    planned: Plan,
    fitted: TrainedModel,
    encoder: TextEncoder,
    validation: Examples,
    work: Path,
    out: Path,
    say: Listener,
) -> TrainResult:
    model, config, splits = fitted.model, planned.config, planned.splits
    labels, shared = splits.labels, config.zero_shot.attention == "alternate"

    # 4. the finished folder, measured with the weights as they are saved, then moved into place
    folder = work / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if config.model.lora is not None:
        adapter = folder / "adapter" if config.model.lora.keep_adapter else None
        model = merged(model, _few_scores(encoder, splits.validation, shared=shared), adapter)
    model = _rounded(model, config.save_dtype)
    settings = _settings(config, planned.objective, encoder)
    if settings.zero_shot is not None and config.zero_shot.fit_on:
        from finetune.training.score_fusion import fit as fit_mix

        mix = fit_mix(model, encoder, settings.zero_shot, labels, config.zero_shot.fit_on, seed=config.seed, say=say)
        settings = replace(settings, zero_shot=replace(settings.zero_shot, mix=mix))
    figures = _measure(config, splits, planned.objective, model, encoder, shared=shared, validation=validation.tokens)
    verdict = verdict_of(
        config,
        labels,
        figures,
        labels.encode(splits.train.values),
        chosen_by=best_by(config.checkpoint.best_by, labels.task),
        evaluations=sum("eval_loss" in entry for entry in fitted.history),
        usual_lr=usual_lr(body_config(model.config)),
    )
    for sentence in verdict.warnings:
        say(Warned(sentence))
    _write(folder, settings, planned, figures, fitted, verdict)
    _save_weights(model, folder, config.save_dtype)
    encoder.tokenizer.save_pretrained(folder)
    if config.model.lora is not None or config.model.head.name != STOCK:
        _require_same(folder, model, _few_scores(encoder, splits.validation, shared=False))
    model_folder.seal(folder)
    model_folder.read(folder, check_hashes=True)
    model_folder.publish(folder, out)
    shutil.rmtree(work, ignore_errors=True)
    values = {name: one.scored.values() for name, one in figures.items()}
    say(Saved(str(out)))
    say(Finished(str(out), values["validation"], verdict.notes))
    tests = {name: found for name, found in values.items() if name != "validation"}
    return TrainResult(out, values["validation"], tests, splits.counts, fitted.updates, verdict)


def validation_rows(folder: Path) -> Rows:
    """The rows that a model was validated on, read again from where its train_config.yaml says.

    Raises:
        ConfigError, DataError: it has no train_config.yaml, or the data is not there.
    """
    recorded = folder / model_folder.TRAIN_CONFIG
    config = loading.build(loading.upgraded(loading.read_yaml(recorded)), str(recorded))
    return load_splits(config.data, seed=config.seed).validation


def _measure(
    config: TrainConfig,
    splits: Splits,
    objective: Objective,
    model: Any,
    encoder: TextEncoder,
    *,
    shared: bool,
    validation: Tokens,
) -> dict[str, ScoredSplit]:
    from finetune.training.trainer import predict

    labels = splits.labels
    targets = labels.encode(splits.train.values)
    evaluated = {"validation": splits.validation, **splits.tests}
    plain: list[Any] = [None] * len(evaluated)
    if config.tfidf_baseline and labels.nli is None:  # entailment is not in the words
        plain = tfidf_scores(labels, splits.train, list(evaluated.values()), seed=config.seed)
    found = {}
    for (name, rows), without_encoder in zip(evaluated.items(), plain, strict=True):
        tokens = validation if name == "validation" else tokens_of(encoder, rows)
        scores = objective.scores(predict(model, encoder, tokens, shared=shared))
        scored = scored_rows(labels, scores, rows, targets, extra=config.metrics)
        if without_encoder is not None:
            scored = beside_tfidf(labels, scored, without_encoder, rows)
        found[name] = ScoredSplit(scored, scores, rows, tokens.lengths.tolist())
    return found


def _settings(config: TrainConfig, objective: Objective, encoder: TextEncoder) -> ClassifierSettings:
    zero, labels = None, objective.labels
    if labels.nli is not None:
        wanted = config.zero_shot
        zero = ZeroShotSettings(
            wanted.hypothesis_template,
            "shared_text" if wanted.attention == "alternate" else "ordinary",
            wanted.scorer,
            wanted.label_embedding,
        )
    return ClassifierSettings(
        labels.task,
        objective.activation,
        base=config.base,
        max_length=encoder.max_length,
        zero_shot=zero,
        target=objective.target_scale,
    )


def _write(
    folder: Path,
    settings: ClassifierSettings,
    planned: Plan,
    figures: dict[str, ScoredSplit],
    fitted: TrainedModel,
    verdict: Verdict,
) -> None:
    config = planned.config
    model_folder.write_settings(folder, settings)
    repeatable = config.model_copy(update={"overwrite": False, "resume": False, "allow_changed": ()})
    (folder / model_folder.TRAIN_CONFIG).write_text(loading.dump(repeatable), encoding="utf-8")
    splits = planned.splits
    chosen_by = best_by(config.checkpoint.best_by, splits.labels.task)
    content = report.metrics_json(figures, splits.counts, chosen_by, verdict.to_json())
    content |= {"base_fit": planned.fit.to_json()}
    model_folder.write_json(folder / model_folder.METRICS, content)
    drawn = report.write(
        folder / "report",
        splits.labels,
        figures["validation"],
        planned.lengths,
        fitted.history,
        fitted.snapshots,
        error_rows=config.error_rows,
        with_plots=config.plots,
    )
    pairs = planned.near.listed(splits.by_name(), config.error_rows)
    report.write_near_duplicates(folder / "report", pairs)
    listed = report.errors_sentence(folder / "report")
    card = model_card(config, settings, splits, planned.fit, figures, drawn, verdict, listed)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _rounded(model: Any, dtype: str) -> Any:
    import torch

    return model.to(torch.bfloat16).to(torch.float32) if dtype == "bfloat16" else model


def _save_weights(model: Any, folder: Path, dtype: str) -> None:
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
    for file in folder.glob("model*.safetensors"):
        file.chmod((folder / model_folder.METRICS).stat().st_mode)  # safetensors lets only the owner read them


def _few_scores(encoder: TextEncoder, rows: Rows, *, shared: bool) -> Callable[[Any], Any]:
    """Gives a model's logits of a few rows, which must survive what is done to its weights."""
    from finetune.training.trainer import predict

    tokens = tokens_of(encoder, rows.take(range(min(VERIFIED, len(rows)))))
    return lambda model: predict(model, encoder, tokens, shared=shared)


def _require_same(folder: Path, model: Any, scores: Callable[[Any], Any]) -> None:
    """Refuse a folder whose model, read back, does not give the scores of the trained one."""
    from transformers import AutoModelForSequenceClassification

    read = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=model.dtype).to(model.device)
    read.set_attn_implementation(model.config._attn_implementation)  # training may have chosen another than the default
    if not np.array_equal(scores(model), scores(read)):
        raise TrainingError(f"the saved model does not give the scores of the trained one: {folder} is kept for a look")


def _known_result(out: Path) -> TrainResult:
    folder = model_folder.read(out)
    metrics = dict(folder.metrics or {})
    values = {name: entry["value"] for name, entry in metrics.get("metrics", {}).items()}
    tests = {
        name: {metric: entry["value"] for metric, entry in part["metrics"].items()}
        for name, part in metrics.get("tests", {}).items()
    }
    said = {key: sentence or "" for key, sentence in metrics.get("notes", {}).items()}
    return TrainResult(out, values, tests, dict(metrics.get("data", {})), 0, Verdict(**said))
