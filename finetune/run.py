"""The training pipeline, top to bottom: a table in, a finished model folder out.

Nothing at `out` is touched before the new folder is complete. Started by torchrun or `accelerate launch`, all processes
read the rows and train; process 0 alone writes, measures and reports.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config import loading
from finetune.config.renamed import upgraded
from finetune.config.training import TrainConfig
from finetune.core import launch, model_folder
from finetune.core.disk_space import CHECKPOINTS_ARE_WHOLE, GO_ON, full_disk_explained, writing
from finetune.core.errors import TrainingError
from finetune.core.event_printer import EventPrinter
from finetune.core.events import Finished, Info, Listener, Saved, Warned
from finetune.core.file_lock import lock_file
from finetune.core.model_folder import ClassifierSettings, ZeroShotSettings
from finetune.core.quiet import quiet_transformers
from finetune.data.load import Splits, load_splits
from finetune.data.rows import Rows
from finetune.evaluation import drift, label_errors
from finetune.evaluation.evaluate import ScoredSplit, differences, evaluate
from finetune.evaluation.metrics import best_by
from finetune.evaluation.score_fitting import ScoreReport
from finetune.measurement import is_shared, logits_of, measure, window_logits_of, with_fitted_scores
from finetune.modeling.heads import STOCK
from finetune.modeling.interpolation import interpolated
from finetune.modeling.lora import merged
from finetune.modeling.saved_dtype import rounded, save_weights
from finetune.prepare import Prepared, prepare, tokens_of, usual_lr, work_folder
from finetune.reports import report
from finetune.reports.model_card import model_card
from finetune.reports.report import ROW_NUMBERS, evaluation_json, write_evaluation
from finetune.reports.run_warnings import Verdict, verdict_of
from finetune.training import processes, run_lock

if TYPE_CHECKING:
    from finetune.training.fit import TrainedModel

__all__ = ["ROW_NUMBERS", "TrainResult", "differences", "evaluate", "evaluation_json", "train", "write_evaluation"]

VERIFIED_ROWS = 64
"""Validation rows whose scores are compared before and after a trained model's weights are merged or saved."""

ROUNDING = {False: 1e-5, True: 1e-2}
"""What their logits may differ by, in the largest one, without and with bfloat16."""


OWN_LANGUAGE = 0.25
"""Fraction of the training texts from which a language is one of the model's; detection errs on short texts."""

MULTILINGUAL_FROM = 60_000
"""Size of a vocabulary that is made for many languages."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        path: the model folder.
        metrics: name -> value on the validation rows.
        tests: the same for each test table.
        data: counts of rows, by what happened to them.
        updates: updates made.
        verdict: warnings and notes about the model.
    """

    path: Path
    metrics: dict[str, float]
    tests: dict[str, dict[str, float]]
    data: dict[str, int]
    updates: int
    verdict: Verdict = field(default_factory=Verdict)


def train(
    config: TrainConfig, data: Any = None, on_event: Listener | None = None, *, progress: bool = True
) -> TrainResult:
    """Fine-tune `config.base` on a table and write a model folder to `config.out`; all processes that torchrun or
    `accelerate launch` has started call this together, and all get the result.

    Args:
        data: an in-memory table in place of `config.data.train`: a pandas DataFrame, a `datasets.Dataset` or
            `DatasetDict`, a list of dicts, or a dict of those by split.
        on_event: called with each event of finetune.core.events; nothing is printed then. Of several processes, only
            process 0 has events.
        progress: print the run's progress to standard error where no `on_event` is given.

    Raises:
        FinetuneError: bad settings, data or base (before any training), or a run that diverged.
        ProcessLost: another of several processes has ended.
        FailedElsewhere: another of several processes has failed, and has reported why.
    """
    out, work = Path(config.out), work_folder(Path(config.out))
    with ExitStack() as stack:
        emit = on_event if on_event is not None else _printer(stack, progress)
        processes.join(config.device, emit)
        stack.enter_context(processes.reporting())
        emit = processes.listener(emit)
        if launch.restarts() and not config.resume:
            config = config.model_copy(update={"resume": True})
            emit(Info(f"started again by torchrun, time {launch.restarts()}: going on from the last checkpoint"))

        # 1. Refuse an output folder that is taken. A finished run has nothing to resume.
        if config.resume and processes.on_main(lambda: model_folder.is_finished(out)):
            emit(Info(f"{out} is finished: nothing to resume"))
            return processes.on_main(lambda: _finished_result(out))
        processes.on_main(lambda: _take(config, out, stack))
        processes.require_shared(lock_file(out))
        stack.enter_context(full_disk_explained())
        _warn_of_checkpoints(config, work, emit)

        # 2. Read, check and tokenize the rows: whatever can be refused is refused here.
        stack.enter_context(quiet_transformers())
        prepared = processes.together(lambda: prepare(config, data, emit))

        # 3. Train the base's body under a new head, from the last good checkpoint with --resume.
        #    Auto-recovery may change settings; the folder records those that trained the model.
        trained = _trained(prepared, work, emit)
        prepared = replace(prepared, config=trained.config)
        return processes.on_main(lambda: _finished(prepared, trained, work, emit))


def _finished(prepared: Prepared, trained: TrainedModel, work: Path, emit: Listener) -> TrainResult:
    """Measure a trained model, write its folder and return the result of the run."""
    out = Path(prepared.config.out)
    with ExitStack() as stack:
        # 4. Bring the weights into the form in which they are saved: LoRA merged, mixed with the base, rounded.
        folder = stack.enter_context(_finishing(work, trained.model, emit))
        model = _as_saved(trained.model, prepared, folder)

        # 5. Describe the classifier; the fusion weights of a zero-shot model are fitted on unseen label sets.
        #    Calibration, thresholds and prediction sets are fitted on the validation rows.
        logits = logits_of(prepared, model, trained.held_out)
        settings, fitted = with_fitted_scores(prepared, _settings(prepared, model, emit), logits, emit)

        # 6. Measure the model on the validation rows and each test table.
        windows = window_logits_of(prepared, model)
        measured = measure(prepared, settings, logits, windows)
        verdict = _verdict(prepared, trained, model, measured)
        for sentence in verdict.warnings:
            emit(Warned(sentence))

        # 7. Write metrics, report, model card, weights and tokenizer; read the weights back.
        likely_errors = _write(folder, settings, prepared, measured, trained, verdict, fitted)
        if likely_errors is not None:
            emit(Info(likely_errors))
        _save_weights(model, folder, prepared)

        # 8. Check every file, then move the folder to its place.
        model_folder.seal(folder)
        model_folder.read(folder, check_hashes=True)
        model_folder.publish(folder, out)
        shutil.rmtree(work, ignore_errors=True)
        values = {name: split.scored.values() for name, split in measured.items()}
        validation = values.pop("validation")
        emit(Saved(str(out)))
        emit(Finished(str(out), validation, verdict.notes))
        return TrainResult(out, validation, values, prepared.splits.counts, trained.updates, verdict)


def measured_run(config: TrainConfig, splits: Splits, work: Path, emit: Listener) -> dict[str, ScoredSplit]:
    """Train a model as `train` does, and return its scores and metrics on the validation rows and each test table; no
    model is kept.

    Args:
        work: folder of the checkpoints.
    """
    prepared = prepare(config, splits=splits)
    trained = _trained(prepared, work, emit)
    prepared = replace(prepared, config=trained.config)
    model = _as_saved(trained.model, prepared, work)
    logits = logits_of(prepared, model)
    settings = ClassifierSettings(splits.labels.task, prepared.objective.activation, target=splits.target)
    settings, _ = with_fitted_scores(prepared, settings, logits, emit)
    return measure(prepared, settings, logits, window_logits_of(prepared, model))


def _trained(prepared: Prepared, work: Path, emit: Listener) -> TrainedModel:
    """Return the trained model; with `few_shot`, by one of those ways, and without checkpoints."""
    from finetune.training import attempts, few_shot_run

    config, inputs = prepared.config, prepared.attempt_inputs(work, emit)
    if config.few_shot is None:
        return attempts.fit(config, inputs)
    return few_shot_run.fit(config, inputs, prepared.splits.train, held_out=prepared.splits.is_cross_validated)


def validation_rows(folder: Path) -> Rows:
    """Return the rows that a model was validated on, read from where its train_config.yaml says.

    Raises:
        ConfigError, DataError: it has no train_config.yaml, or the data is not there.
    """
    recorded = folder / model_folder.TRAIN_CONFIG
    config = loading.build(upgraded(loading.read_yaml(recorded)), str(recorded))
    return load_splits(config.data, seed=config.seed).validation


def _take(config: TrainConfig, out: Path, stack: ExitStack) -> None:
    """Check that the output folder may be written, and hold its lock until the stack closes."""
    model_folder.check_output(out, overwrite=config.overwrite)
    stack.enter_context(run_lock.locked(out))


def _printer(stack: ExitStack, progress: bool) -> Listener:
    return stack.enter_context(EventPrinter()) if progress else lambda event: None


def _warn_of_checkpoints(config: TrainConfig, work: Path, emit: Listener) -> None:
    from finetune.training.checkpoints import last_good_checkpoint

    if not config.resume and (last := last_good_checkpoint(work)) is not None:
        emit(Warned(f"{last} of an earlier run will be replaced as training begins: {GO_ON}"))


@contextmanager
def _finishing(work: Path, model: Any, emit: Listener) -> Iterator[Path]:
    """Give the empty folder in which a trained model is completed; errors name the checkpoints that stay."""
    folder = work / "finished"
    needed = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    with writing(folder, needed, CHECKPOINTS_ARE_WHOLE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        except KeyboardInterrupt:
            emit(Warned(f"interrupted after training: {work} holds its checkpoints; {GO_ON}"))
            raise


def _as_saved(model: Any, prepared: Prepared, folder: Path) -> Any:
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


def _settings(prepared: Prepared, model: Any, emit: Listener) -> ClassifierSettings:
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


def _verdict(prepared: Prepared, trained: TrainedModel, model: Any, measured: dict[str, ScoredSplit]) -> Verdict:
    from finetune.modeling.build import body_config

    config, labels = prepared.config, prepared.splits.labels
    return verdict_of(
        config,
        labels,
        measured,
        labels.encode(prepared.splits.train.values),
        chosen_by=best_by(config.checkpoint.best_by, labels.task),
        evaluations=sum("eval_loss" in entry for entry in trained.history),
        usual_lr=usual_lr(body_config(model.config)),
    )


def _write(
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


def _save_weights(model: Any, folder: Path, prepared: Prepared) -> None:
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


def _finished_result(out: Path) -> TrainResult:
    """Return the result of a run that has ended, read from its folder."""
    content = dict(model_folder.read(out).metrics or {})
    values = {name: entry["value"] for name, entry in content.get("metrics", {}).items()}
    tests = {
        name: {metric: entry["value"] for metric, entry in part["metrics"].items()}
        for name, part in content.get("tests", {}).items()
    }
    notes = {key: sentence or "" for key, sentence in content.get("notes", {}).items()}
    return TrainResult(out, values, tests, dict(content.get("data", {})), 0, Verdict(**notes))
