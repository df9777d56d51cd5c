"""The training pipeline, top to bottom: a table in, a finished model folder out.

Nothing at `out` is touched before the new folder is complete. Started by torchrun or `accelerate launch`, all processes
read the rows and train; process 0 alone writes, measures and reports.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import loading
from finetune.config.renamed import upgraded
from finetune.config.training import TrainConfig
from finetune.core import launch, model_folder
from finetune.core.disk_space import CHECKPOINTS_ARE_WHOLE, GO_ON, full_disk_explained, writing
from finetune.core.event_printer import EventPrinter
from finetune.core.events import Finished, Info, Listener, Saved, Warned
from finetune.core.file_lock import lock_file
from finetune.core.model_folder import ClassifierSettings
from finetune.core.quiet import quiet_transformers
from finetune.data.load import Splits, load_splits
from finetune.data.rows import Rows
from finetune.evaluation.evaluate import ScoredSplit, differences, evaluate
from finetune.evaluation.metrics import best_by
from finetune.measurement import logits_of, measure, window_logits_of, with_fitted_scores
from finetune.prepare import Prepared, prepare, usual_lr, work_folder
from finetune.reports.report import ROW_NUMBERS, evaluation_json, write_evaluation
from finetune.reports.run_warnings import Verdict, verdict_of
from finetune.trained_folder import as_saved, save_weights_and_tokenizer, settings_of, write_files
from finetune.training import processes, run_lock

if TYPE_CHECKING:
    from finetune.training.fit import TrainedModel

__all__ = ["ROW_NUMBERS", "TrainResult", "differences", "evaluate", "evaluation_json", "train", "write_evaluation"]


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
        model = as_saved(trained.model, prepared, folder)

        # 5. Describe the classifier; the fusion weights of a zero-shot model are fitted on unseen label sets.
        #    Calibration, thresholds and prediction sets are fitted on the validation rows.
        logits = logits_of(prepared, model, trained.held_out)
        settings, fitted = with_fitted_scores(prepared, settings_of(prepared, model, emit), logits, emit)

        # 6. Measure the model on the validation rows and each test table.
        windows = window_logits_of(prepared, model)
        measured = measure(prepared, settings, logits, windows)
        verdict = _verdict(prepared, trained, model, measured)
        for sentence in verdict.warnings:
            emit(Warned(sentence))

        # 7. Write metrics, report, model card, weights and tokenizer; read the weights back.
        likely_errors = write_files(folder, settings, prepared, measured, trained, verdict, fitted)
        if likely_errors is not None:
            emit(Info(likely_errors))
        save_weights_and_tokenizer(model, folder, prepared)

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
    model = as_saved(trained.model, prepared, work)
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
