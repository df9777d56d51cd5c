"""Hyperparameter search: trials by Optuna, stored in SQLite, pruned where they fall behind.

A range stands where a value would, at any depth: `{low: 1e-5, high: 1e-3, log: true}`, `{low: 1, high: 4, step: 1}` or
`{choices: [16, 32]}`, with these keys and no others. All files of a study are beside the model, in `OUT.trials/`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import model_folder
from finetune.core.errors import ConfigError, MissingExtra, TrainingError
from finetune.core.events import Evaluated, Event, Info, Listener, Saved, Warned
from finetune.core.launch import require_one_process
from finetune.evaluation.metrics import LOSS, LOWER_IS_BETTER, best_by
from finetune.prepare import prepare
from finetune.reports import plots
from finetune.run import train
from finetune.search_space import Space, space_of
from finetune.training.run_lock import locked

BEST, STUDY, PLOT = "best.yaml", "study.db", "trials.png"

SETTINGS, METRIC, PUBLISHED = "asked", "metric", "placed"
"""Attributes of a study: its settings by key, the metric of its scores, the hash of the manifest at `out`. Studies on
disk use these strings."""

DIVERGED = "diverged"
"""Attribute of a failed trial that ended by itself; one that was stopped from outside does not count."""

TRIALS_BEFORE_PRUNING = 3
STEPS_PER_EPOCH = 1000
"""Scores are reported by epoch, as whole numbers, so that trials of different batch sizes are compared at one point."""


@dataclass(frozen=True)
class SearchResult:
    """The best trial of a study.

    Attributes:
        path: the model folder.
        config: settings of the best trial.
        score: its value of `metric` on the validation rows.
        trials: trials in the study that ended.
        metric: name of the metric.
    """

    path: Path
    config: TrainConfig
    score: float
    trials: int
    metric: str = ""


def search(
    content: Mapping[str, Any], trials: int, *, data: Any = None, on_event: Listener | None = None
) -> SearchResult:
    """Train up to `trials` runs with settings drawn from the ranges in `content`; the best one's model goes to `out`.

    A later call continues the study: only the trials that it lacks are trained.

    Args:
        content: a config as YAML gives it, with ranges in place of some values.
        data: an in-memory table in place of `data.train`.
        on_event: called with each event of the search itself; those of the trials are not reported.

    Raises:
        FinetuneError: no range, or an invalid one; another search at this place; no trial that ended with a score.
    """
    require_one_process("the search")
    study = _Study(_optuna(), space_of(content), on_event or (lambda event: None))
    with locked(study.out):
        if study.exists:
            study.load(trials)
        else:
            study.create(data)
        study.train(trials, data)
        return study.finish()


class _Study:
    """Optuna's study of a search space, and its folder."""

    def __init__(self, optuna: Any, space: Space, emit: Listener) -> None:
        self.optuna, self.space, self.emit = optuna, space, emit
        self.base, self.variants = space.probed()
        self.out = Path(self.base.out)
        self.folder = self.out.with_name(f"{self.out.name}.trials")
        self.exists = (self.folder / STUDY).exists()
        self.study: Any = None

    @property
    def metric(self) -> str:
        """The metric by which trials are compared."""
        return str(self.study.user_attrs[METRIC])

    def create(self, data: Any) -> None:
        """Create the study, once every named choice in its ranges has been checked on the data."""
        model_folder.check_output(self.out, overwrite=self.base.overwrite)
        task, *_ = [prepare(config, data).splits.labels.task for config in (self.base, *self.variants)]
        metric = best_by(self.base.checkpoint.best_by, task)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open("minimize" if metric in LOWER_IS_BETTER else "maximize")
        self.study.set_user_attr(METRIC, metric)
        self.study.set_user_attr(SETTINGS, self.space.settings)

    def load(self, trials: int) -> None:
        """Open the study in the folder.

        Raises:
            ConfigError: its settings or ranges are others, or `out` holds something that it did not put there.
        """
        self._open()
        recorded, current = self.study.user_attrs.get(SETTINGS, {}), self.space.settings
        changed = [key for key in {**recorded, **current} if recorded.get(key) != current.get(key)]
        if changed:
            differences = ", ".join(
                f"{key} was {recorded.get(key, 'not set')}, is {current.get(key, 'not set')}" for key in changed
            )
            raise ConfigError(
                f"{self.folder} holds another search: {differences}. Set it back, choose another --out, or remove the "
                "folder"
            )
        model_folder.check_output(self.out, overwrite=self.base.overwrite or self._is_published())
        left = max(0, trials - len(self.ended()))
        self.emit(Info(f"continuing the study in {self.folder}: {left} of {trials} trials are left"))

    def train(self, trials: int, data: Any) -> None:
        """Train trials until `trials` of them have ended."""
        left = max(0, trials - len(self.ended()))
        report = [lambda _, trial: self._report(trial, trials)]
        try:
            self.study.optimize(lambda trial: self._score(trial, data), left, callbacks=report, catch=(TrainingError,))
        except KeyboardInterrupt:
            done = f"{len(self.ended())} of {trials} trials are kept in {self.folder}"
            self.emit(Warned(f"interrupted: {done}; run the same command again to continue"))
            raise

    def finish(self) -> SearchResult:
        """Plot the trials, write the best config, and move its model to `out`."""
        trials, best = self.ended(), self._best()
        scores = [(number, trial.value, trial.state.name.lower()) for number, trial in enumerate(trials, 1)]
        plots.trials(scores, self.metric, self.folder / PLOT)
        self._remove_all_but_best()
        if best is None:
            raise TrainingError(f"all {len(trials)} trials failed: try other ranges, with another --out")
        config = self.space.config(self.space.values(best.params))
        (self.folder / BEST).write_text(loading.dump(config), encoding="utf-8")
        folder = self._folder_of(best)
        if folder.is_dir():
            self.study.set_user_attr(PUBLISHED, model_folder.sha256(folder / self.out.name / model_folder.MANIFEST))
            model_folder.publish(folder / self.out.name, self.out)
            shutil.rmtree(folder, ignore_errors=True)
            self.emit(Saved(str(self.out)))
        elif not self._is_published():
            again = f"rehead finetune --config {self.folder / BEST}"
            self.emit(Warned(f"the best trial's model is no longer at {self.out}: {again} trains it again"))
        return SearchResult(self.out, config, best.value, len(trials), self.metric)

    def ended(self) -> list[Any]:
        """Return the trials that ended by themselves; one that was stopped from outside is replaced by another."""
        states = ("COMPLETE", "PRUNED")
        return [trial for trial in self.study.trials if trial.state.name in states or DIVERGED in trial.user_attrs]

    def _open(self, direction: str | None = None) -> None:
        """Open the study, or create it; an existing study keeps its direction."""
        storage = f"sqlite:///{self.folder / STUDY}"
        if direction is None:
            [summary] = self.optuna.get_all_study_summaries(storage) or [None]
            direction = summary.direction.name.lower() if summary is not None and summary.direction else "maximize"
        self.study = self.optuna.create_study(
            study_name=self.out.name,
            storage=storage,
            direction=direction,
            pruner=self.optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
            load_if_exists=True,
        )
        # a continued study should not draw its first values again
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.base.seed + len(self.study.trials))

    def _score(self, trial: Any, data: Any) -> float:
        """Train one trial and return its score; a failed trial leaves no folder."""
        for key, search_range in self.space.ranges.items():
            search_range.draw(key, trial)
        folder, metric = self._folder_of(trial), self.metric
        shutil.rmtree(folder, ignore_errors=True)
        # the folder's name is the title of the model card
        settings = {"out": str(folder / self.out.name), "overwrite": True, "resume": False}
        try:
            config = self.space.config(self.space.values(trial.params), **settings)
            scores = _TrialScores(self.optuna, trial, metric)
            metrics = train(config, data, scores).metrics
            score = scores.best if metric == LOSS else metrics.get(metric, math.nan)
            if not math.isfinite(score):
                raise TrainingError(f"{metric} is {score}")
        except BaseException as error:
            if isinstance(error, TrainingError):
                trial.set_user_attr(DIVERGED, True)
            self._keep_logs(folder)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._keep_logs(folder)
        return score

    def _keep_logs(self, folder: Path) -> None:
        """Move a trial's TensorBoard logs out of the folder that will be removed."""
        logs = folder / f"{self.out.name}.logs"
        if logs.is_dir():
            (self.folder / "logs").mkdir(exist_ok=True)
            shutil.move(logs, self.folder / "logs" / folder.name)

    def _report(self, trial: Any, trials: int) -> None:
        values = self.space.values(trial.params)
        settings = ", ".join(
            f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items()
        )
        outcome = {"PRUNED": "pruned", "FAIL": "diverged"}.get(trial.state.name)
        if outcome is None:
            best = f" (best {self.metric} so far)" if self.study.best_trial.number == trial.number else ""
            outcome = f"{self.metric} {trial.value:.4f}{best}"
        self.emit(Info(f"trial {len(self.ended())} of {trials}: {outcome} with {settings}"))
        self._remove_all_but_best()

    def _best(self) -> Any:
        is_complete = any(trial.state.name == "COMPLETE" for trial in self.study.trials)
        return self.study.best_trial if is_complete else None

    def _remove_all_but_best(self) -> None:
        """Remove the models of other trials, which would fill the disk."""
        best = self._best()
        for folder in self.folder.glob("trial-*"):
            if best is None or folder != self._folder_of(best):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder_of(self, trial: Any) -> Path:
        return self.folder / f"trial-{trial.number:03d}"

    def _is_published(self) -> bool:
        """Return whether the model at `out` is the one that this study put there."""
        manifest = self.out / model_folder.MANIFEST
        return manifest.is_file() and model_folder.sha256(manifest) == self.study.user_attrs.get(PUBLISHED)


class _TrialScores:
    """A listener that reports a run's scores to the study, and raises TrialPruned where the run falls behind."""

    def __init__(self, optuna: Any, trial: Any, metric: str) -> None:
        self.optuna, self.trial, self.metric, self.last_step = optuna, trial, metric, -1
        self.best = math.nan

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Evaluated) or self.metric not in event.metrics:
            return
        self.best = event.metrics[self.metric] if event.best else self.best
        step = round(event.epoch * STEPS_PER_EPOCH)
        if step > self.last_step:  # auto-recovery goes back to an earlier checkpoint
            self.last_step = step
            self.trial.report(event.metrics[self.metric], step)
            if self.trial.should_prune():
                raise self.optuna.TrialPruned


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("rehead search needs Optuna: pip install 'rehead[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
