"""The folder of a trained model: its weights as they are saved, classifier.json, metrics, report and model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config import loading
from finetune.core import model_folder
from finetune.core.errors import TrainingError
from finetune.core.events import Listener
from finetune.core.model_folder import ClassifierSettings, ZeroShotSettings
from finetune.evaluation import drift, label_errors
from finetune.evaluation.evaluate import ScoredSplit
from finetune.evaluation.metrics import best_by
from finetune.evaluation.score_fitting import ScoreReport
from finetune.measurement import is_shared
from finetune.modeling.heads import STOCK
from finetune.modeling.interpolation import interpolated
from finetune.modeling.lora import merged
from finetune.modeling.saved_dtype import rounded, save_weights
from finetune.prepare import Prepared, tokens_of
from finetune.reports import report
from finetune.reports.model_card import model_card
from finetune.reports.run_warnings import Verdict

if TYPE_CHECKING:
    from finetune.training.fit import TrainedModel

VERIFIED_ROWS = 64
"""Validation rows whose scores are compared before and after a trained model's weights are merged or saved."""

ROUNDING = {False: 1e-5, True: 1e-2}
"""What their logits may differ by, in the largest one, without and with bfloat16."""

OWN_LANGUAGE = 0.25
"""Fraction of the training texts from which a language is one of the model's; detection errs on short texts."""

MULTILINGUAL_FROM = 60_000
"""Size of a vocabulary that is made for many languages."""


def as_saved(model: Any, prepared: Prepared, folder: Path) -> Any:
    """Return the model with LoRA merged into its weights, these interpolated with the base's, and rounded to
    `save_dtype`."""
    config = prepared.config
    if config.model.lora is not None:
        adapter = folder / "adapter" if config.model.lora.keep_adapter else None
        model = merged(model, _few_logits(prepared, shared=is_shared(config)), adapter)
    if config.optim.interpolate_base:
        from finetune.modeling.build import build_model

        base = build_model(prepared.base, prepared.splits.labels, config.model)
        model = interpolated(model, base, config.optim.interpolate_base)
    return rounded(model, config.save_dtype)


def settings_of(prepared: Prepared, model: Any, emit: Listener) -> ClassifierSettings:
    """Return the content of classifier.json."""
    config, labels, encoder = prepared.config, prepared.splits.labels, prepared.encoder
    zero_shot = None
    if labels.nli is not None:
        section = config.zero_shot
        zero_shot = ZeroShotSettings(
            section.hypothesis_template,
            "shared_text" if is_shared(config) else "ordinary",
            section.scorer,
            section.label_embedding,
        )
        if section.fit_on:
            from finetune.training.score_fusion import fit as fit_fusion

            fusion = fit_fusion(model, encoder, zero_shot, labels, section.fit_on, seed=config.seed, say=emit)
            zero_shot = replace(zero_shot, fusion=fusion)
    return ClassifierSettings(
        labels.task,
        prepared.objective.activation,
        base=config.base,
        max_length=encoder.max_length,
        zero_shot=zero_shot,
        target=prepared.splits.target,
        text_columns=config.data.text_columns,
        languages=_languages(prepared),
        window=config.window.window() if config.window is not None else None,
    )


def _languages(prepared: Prepared) -> tuple[str, ...]:
    """Return the languages that a model is trained for: those of the config, or of its texts and its base."""
    if prepared.config.languages:
        return prepared.config.languages
    base = prepared.base.path
    known = model_folder.read(base).settings.languages if base is not None and model_folder.is_finished(base) else ()
    if not known and len(prepared.encoder.tokenizer) > MULTILINGUAL_FROM:
        return ()  # what such a base has learned in one language it may know in many
    found = [name for name, part in prepared.tokenizer_report.languages.items() if part >= OWN_LANGUAGE]
    return tuple(dict.fromkeys([*found, *(known if len(known) > 1 else ())]))


def write_files(
    folder: Path,
    settings: ClassifierSettings,
    prepared: Prepared,
    measured: dict[str, ScoredSplit],
    trained: TrainedModel,
    verdict: Verdict,
    fitted: ScoreReport,
) -> str | None:
    """Write classifier.json, train_config.yaml, metrics.json, drift_reference.json, the report and the model card.

    Returns:
        A sentence about likely label errors on the validation rows, if there are any.
    """
    from finetune.training import few_shot_run

    config, splits, fit = prepared.config, prepared.splits, prepared.tokenizer_report
    model_folder.write_settings(folder, settings)
    repeatable = config.model_copy(update={"overwrite": False, "resume": False, "allow_changed": ()})
    (folder / model_folder.TRAIN_CONFIG).write_text(loading.dump(repeatable), encoding="utf-8")
    chosen_by = best_by(config.checkpoint.best_by, splits.labels.task)
    content = report.metrics_json(measured, splits.counts, chosen_by, verdict.to_json())
    calibration = {"calibration": fitted.content} if fitted.content else {}
    head: dict[str, Any] = {"head": prepared.head.to_json()} if prepared.head.rows else {}
    head |= {"few_shot": few_shot_run.table_json(trained)} if config.few_shot is not None else {}
    model_folder.write_json(folder / model_folder.METRICS, content | {"base_fit": fit.to_json()} | calibration | head)
    validated = measured["validation"]
    if splits.labels.nli is None:
        tokens, tokenizer = prepared.validation.tokens, prepared.encoder.prepared
        content = drift.reference_of(splits.labels, validated.scores, tokens, tokenizer)
        model_folder.write_json(folder / model_folder.DRIFT_REFERENCE, content)
    plots = report.write(
        folder / "report",
        splits.labels,
        measured["validation"],
        report.Lengths(prepared.train.tokens.lengths.tolist(), prepared.encoder.max_length, fit.truncated),
        trained.history,
        trained.snapshots,
        error_rows=config.error_rows,
        with_plots=config.plots,
        fitted=fitted,
    )
    likely_errors = None
    if label_errors.is_available() and config.error_rows:
        likely_errors = label_errors.write(folder / "report", splits.labels, validated.scores, validated.rows)
    pairs = prepared.near_duplicates.listed(splits.distinct(), config.error_rows)
    report.write_near_duplicates(folder / "report", pairs)
    errors = report.errors_sentence(folder / "report")
    sentences = [*fitted.sentences, *fitted.notes]
    origin = few_shot_run.sentence_of(trained) if config.few_shot is not None else str(prepared.head)
    card = model_card(config, settings, splits, fit, measured, plots, verdict, errors, sentences, origin=origin)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return likely_errors


def save_weights_and_tokenizer(model: Any, folder: Path, prepared: Prepared) -> None:
    """Save weights and tokenizer; weights that a plain checkpoint would not hold are read back and compared."""
    config = prepared.config
    save_weights(model, folder, config.save_dtype)
    for file in folder.glob("model*.safetensors"):
        file.chmod((folder / model_folder.METRICS).stat().st_mode)  # safetensors lets only the owner read them
    prepared.encoder.tokenizer.save_pretrained(folder)
    tokenizer = folder / "tokenizer.json"  # written with a line for each number
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text(encoding="utf-8")), ensure_ascii=False), "utf-8")
    if config.model.lora is not None or config.model.head.name != STOCK:
        from finetune.training.arguments import use_bfloat16

        rounding = ROUNDING[use_bfloat16(config.precision, config.device)]
        _require_same(folder, model, _few_logits(prepared, shared=False), rounding)


def _few_logits(prepared: Prepared, *, shared: bool) -> Callable[[Any], Any]:
    """Return a function that computes a model's logits `[rows, labels]` of a few validation rows."""
    from finetune.training.trainer import predict

    encoder, rows = prepared.encoder, prepared.splits.validation
    tokens = tokens_of(encoder, rows.take(range(min(VERIFIED_ROWS, len(rows)))))
    return lambda model: predict(model, encoder, tokens, shared=shared)


def _require_same(folder: Path, model: Any, logits: Callable[[Any], Any], rounding: float) -> None:
    """Raise TrainingError if the model in `folder` does not compute the logits of the trained one.

    Some matrix kernels round by where in memory a weight lies, so that logits of equal weights are equal up to
    `rounding`, in the largest logit.
    """
    from transformers import AutoModelForSequenceClassification

    read = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=model.dtype).to(model.device)
    read.set_attn_implementation(model.config._attn_implementation)  # training may have chosen another than the default
    trained, stored = logits(model), logits(read)
    if not np.allclose(trained, stored, rtol=0, atol=rounding * np.abs(trained).max()):
        raise TrainingError(
            f"the saved model does not give the scores of the trained one; {folder} is kept for inspection"
        )
