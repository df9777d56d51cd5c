"""The best settings among ranges: trials by Optuna, kept in SQLite, cut short where they fall behind.

Knows: how a config says a range, what a trial is, where the study lies, and how it goes on.
Does not know: how a run is trained (run.py), or which setting matters.

A range stands where a value would, at any depth: `{low: 1e-5, high: 1e-3, log: true}`, `{low: 1, high: 4, step: 1}` or
`{choices: [16, 32]}`, with these keys and no others. Everything lies beside the model, in `OUT.trials/`.
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
from finetune.core.events import Evaluated, Info, Listener, Saved, Warned
from finetune.evaluation.metrics import LOSS, LOWER_IS_BETTER, best_by
from finetune.prepare import plan
from finetune.reports import plots
from finetune.run import train
from finetune.search_space import Space, space_of
from finetune.training.run_lock import locked

BEST, STUDY, PICTURE = "best.yaml", "study.db", "trials.png"

ASKED, METRIC, PLACED = "asked", "metric", "placed"
"""What a study records of itself: the settings by key, the metric of its scores, the hash of the manifest at `out`."""

DIVERGED = "diverged"
"""What a failed trial records where it did come to an end; one that was stopped from outside does not count."""

TRIALS_BEFORE_PRUNING = 3
STEPS_OF_AN_EPOCH = 1000
"""Scores are reported by epoch, as whole numbers, so that trials of unlike batch sizes are compared at one place."""


@dataclass(frozen=True)
class SearchResult:
    """The best trial: its config, its score in `metric` on the validation rows, and how many trials the study holds."""

    path: Path
    config: TrainConfig
    score: float
    trials: int
    metric: str = ""


def search(
    content: Mapping[str, Any], trials: int, *, data: Any = None, on_event: Listener | None = None
) -> SearchResult:
    """Train up to `trials` runs with settings drawn from the ranges in `content`; the best one's model goes to `out`.

    Called again it goes on: only trials that the study lacks are trained.

    Args:
        content: a config as YAML gives it, with ranges in the place of some values.
        data: an in-memory table in place of `data.train`.

    Raises:
        FinetuneError: no range, or one that cannot be; another search at this place; no trial that came to an end.
    """
    study = _Study(_optuna(), space_of(content), on_event or (lambda event: None))
    with locked(study.out):
        study.go_on(trials) if study.is_known else study.begin(data)
        study.train(trials, data)
        return study.finish()


class _Study:
    """Optuna's study of a space, and the folder in which it lies."""

    def __init__(self, optuna: Any, space: Space, say: Listener) -> None:
        self.optuna, self.space, self.say = optuna, space, say
        self.base, self.named = space.probed()
        self.out = Path(self.base.out)
        self.folder = self.out.with_name(f"{self.out.name}.trials")
        self.is_known = (self.folder / STUDY).exists()
        self.kept: Any = None

    def begin(self, data: Any) -> None:
        """A new study, once nothing speaks against it."""
        model_folder.check_output(self.out, overwrite=self.base.overwrite)
        # whether a choice by name suits the data shows where the run is planned
        task, *_ = [plan(config, data).splits.labels.task for config in (self.base, *self.named)]
        metric = best_by(self.base.checkpoint.best_by, task)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open("minimize" if metric in LOWER_IS_BETTER else "maximize")
        self.kept.set_user_attr(METRIC, metric)
        self.kept.set_user_attr(ASKED, self.space.asked)

    def go_on(self, trials: int) -> None:
        """The study in the folder.

        Raises:
            ConfigError: it is of other settings or ranges, or `out` holds something that it did not put there.
        """
        self._open()
        then, now = self.kept.user_attrs.get(ASKED, {}), self.space.asked
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if changed:
            differ = ", ".join(f"{key} was {then.get(key, 'not set')}, is {now.get(key, 'not set')}" for key in changed)
            raise ConfigError(
                f"{self.folder} holds another search: {differ}. Set it back, choose another --out, or remove the folder"
            )
        model_folder.check_output(self.out, overwrite=self.base.overwrite or self._is_ours())
        left = max(0, trials - len(self.counted()))
        self.say(Info(f"going on with the study in {self.folder}: {left} of {trials} trials are left"))

    def train(self, trials: int, data: Any) -> None:
        """Train the trials that are still missing of so many."""
        left = max(0, trials - len(self.counted()))
        tell = [lambda _, trial: self._tell(trial, trials)]
        try:
            self.kept.optimize(lambda trial: self._score(trial, data), left, callbacks=tell, catch=(TrainingError,))
        except KeyboardInterrupt:
            done = f"{len(self.counted())} of {trials} trials are kept in {self.folder}"
            self.say(Warned(f"interrupted: {done}; run the same command again to go on"))
            raise

    def finish(self) -> SearchResult:
        """Draw the picture, write the best config, put its model in place."""
        counted, best = self.counted(), self._best()
        tried = [(number, one.value, one.state.name.lower()) for number, one in enumerate(counted, 1)]
        plots.trials(tried, self.kept.user_attrs[METRIC], self.folder / PICTURE)
        self._keep_best()
        if best is None:
            raise TrainingError(f"none of {len(counted)} trials came to an end: try other ranges, with another --out")
        config = self.space.config(self.space.values(best.params))
        (self.folder / BEST).write_text(loading.dump(config), encoding="utf-8")
        place = self._place(best)
        if place.is_dir():
            self.kept.set_user_attr(PLACED, model_folder.sha256(place / self.out.name / model_folder.MANIFEST))
            model_folder.publish(place / self.out.name, self.out)
            shutil.rmtree(place, ignore_errors=True)
            self.say(Saved(str(self.out)))
        elif not self._is_ours():
            again = f"rehead finetune --config {self.folder / BEST}"
            self.say(Warned(f"the best trial's model is not at {self.out} any more: {again} trains it again"))
        return SearchResult(self.out, config, best.value, len(counted), self.kept.user_attrs[METRIC])

    def counted(self) -> list[Any]:
        """The trials that came to an end; one that was stopped from outside is made up for by another."""
        ended = ("COMPLETE", "PRUNED")
        return [one for one in self.kept.trials if one.state.name in ended or DIVERGED in one.user_attrs]

    def _open(self, direction: str | None = None) -> None:
        """Open the study, or create it; one that is there keeps its direction."""
        storage = f"sqlite:///{self.folder / STUDY}"
        if direction is None:
            [known] = self.optuna.get_all_study_summaries(storage) or [None]
            direction = known.direction.name.lower() if known is not None and known.direction else "maximize"
        self.kept = self.optuna.create_study(
            study_name=self.out.name,
            storage=storage,
            direction=direction,
            pruner=self.optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
            load_if_exists=True,
        )
        # a study that goes on should not draw its first values once more
        self.kept.sampler = self.optuna.samplers.TPESampler(seed=self.base.seed + len(self.kept.trials))

    def _score(self, trial: Any, data: Any) -> float:
        for key, range_ in self.space.ranges.items():
            range_.draw(key, trial)
        place, metric = self._place(trial), self.kept.user_attrs[METRIC]
        shutil.rmtree(place, ignore_errors=True)
        # the model card is headed by the folder's name
        settings = {"out": str(place / self.out.name), "overwrite": True, "resume": False}
        try:
            config = self.space.config(self.space.values(trial.params), **settings)
            heard = _Scores(self.optuna, trial, metric)
            metrics = train(config, data, heard).metrics
            score = heard.best if metric == LOSS else metrics.get(metric, math.nan)
            if not math.isfinite(score):
                raise TrainingError(f"{metric} is {score}")
        except BaseException as stop:
            if isinstance(stop, TrainingError):
                trial.set_user_attr(DIVERGED, True)
            self._keep_logs(place)
            shutil.rmtree(place, ignore_errors=True)  # no half-made folder
            raise
        self._keep_logs(place)
        return score

    def _keep_logs(self, place: Path) -> None:
        """Move a trial's TensorBoard logs to where they stay when its folder goes."""
        logs = place / f"{self.out.name}.logs"
        if logs.is_dir():
            (self.folder / "logs").mkdir(exist_ok=True)
            shutil.move(logs, self.folder / "logs" / place.name)

    def _tell(self, trial: Any, trials: int) -> None:
        values = self.space.values(trial.params)
        shown = ", ".join(f"{key}={f'{one:.4g}' if isinstance(one, float) else one}" for key, one in values.items())
        ended = {"PRUNED": "cut short", "FAIL": "diverged"}.get(trial.state.name)
        if ended is None:
            metric = self.kept.user_attrs[METRIC]
            best = f" (best {metric} so far)" if self.kept.best_trial.number == trial.number else ""
            ended = f"{metric} {trial.value:.4f}{best}"
        self.say(Info(f"trial {len(self.counted())} of {trials}: {ended} with {shown}"))
        self._keep_best()

    def _best(self) -> Any:
        return self.kept.best_trial if any(one.state.name == "COMPLETE" for one in self.kept.trials) else None

    def _keep_best(self) -> None:
        # models of many trials would fill the disk
        best = self._best()
        for place in self.folder.glob("trial-*"):
            if best is None or place != self._place(best):
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, trial: Any) -> Path:
        return self.folder / f"trial-{trial.number:03d}"

    def _is_ours(self) -> bool:
        manifest = self.out / model_folder.MANIFEST
        return manifest.is_file() and model_folder.sha256(manifest) == self.kept.user_attrs.get(PLACED)


class _Scores:
    """Hears one run, reports its scores to the study, and stops it (TrialPruned) where it falls behind."""

    def __init__(self, optuna: Any, trial: Any, metric: str) -> None:
        self.optuna, self.trial, self.metric, self.reported = optuna, trial, metric, -1
        self.best = math.nan

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Evaluated) or self.metric not in event.metrics:
            return
        self.best = event.metrics[self.metric] if event.best else self.best
        step = round(event.epoch * STEPS_OF_AN_EPOCH)
        if step > self.reported:  # a run that is mended goes back to a checkpoint
            self.reported = step
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
