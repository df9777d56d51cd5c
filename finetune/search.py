"""The best settings among ranges: trials by Optuna, kept in SQLite, cut short where they fall behind.

Knows: how a config says a range, what a trial is, where the study lies, and how it goes on.
Does not know: how a run is trained (run.py), or which setting matters.

A range stands where a value would, in the YAML file: `{low: 1e-5, high: 1e-3, log: true}`, `{low: 1, high: 4, step: 1}`
or `{choices: [16, 32]}`. Everything lies beside the model, in `OUT.trials/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import artifact, configfile, pictures
from finetune.config import TrainConfig
from finetune.errors import ConfigError, MissingExtra, TrainingError
from finetune.events import Evaluated, Listener, Said, Saved, Warned
from finetune.metrics import METRICS_OF_TASK
from finetune.run import plan, train

BEST, STUDY, PICTURE = "best.yaml", "study.db", "trials.png"


@dataclass(frozen=True)
class Range:
    """Where a setting may lie: between bounds, or one of a few values."""

    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    def suggested(self, key: str, trial: Any) -> Any:
        """The value that the study tries next."""
        if self.choices is not None:
            # Optuna keeps plain values: others are drawn by their place
            return self.choices[trial.suggest_categorical(key, list(range(len(self.choices))))]
        whole = isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step or 1, int)
        if whole:
            return trial.suggest_int(key, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def ends(self) -> Sequence[Any]:
        """Values that show whether the setting can lie there."""
        return self.choices if self.choices is not None else (self.low, self.high)


@dataclass(frozen=True)
class SearchResult:
    """The best trial: its config, its validation score, and how many trials the study holds."""

    path: Path
    config: TrainConfig
    score: float
    trials: int


def search(
    content: Mapping[str, Any], trials: int, *, data: Any = None, on_event: Listener | None = None
) -> SearchResult:
    """Train up to `trials` runs with settings drawn from the ranges in `content`; the best one's model goes to `out`.

    Called again it goes on: only trials that the study lacks are trained.

    Args:
        content: a config as YAML gives it, with ranges in the place of some values.
        data: an in-memory table in place of `data.train`.

    Raises:
        FinetuneError: no range, a setting that cannot lie in its range, another search at the same place.
    """
    optuna, say = _optuna(), on_event or (lambda event: None)
    fixed, ranges = _parted(content)
    if not ranges:
        raise ConfigError("nothing to search: give a setting a range, for example optim: {lr: {low: 1e-5, high: 1e-3}}")
    base = _checked(fixed, ranges)
    out = Path(base.out)
    folder = out.with_name(f"{out.name}.trials")
    if not (folder / STUDY).exists():  # a study that goes on may replace the model that it left
        artifact.check_output(out, overwrite=base.overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(optuna, folder, fixed, ranges, base.seed)
    name = METRICS_OF_TASK[plan(base, data).splits.labels.task][0]

    def objective(trial: Any) -> float:
        values = {key: range_.suggested(key, trial) for key, range_ in ranges.items()}
        place = _place(folder, trial.number) / out.name
        shutil.rmtree(place.parent, ignore_errors=True)
        config = configfile.build(configfile.laid(fixed, values | {"out": str(place), "overwrite": True}))
        with _Trial(optuna, trial, name, place.parent) as heard:
            return train(config, data, heard).metrics[name]

    def tell(study: Any, trial: Any) -> None:
        say(Said(_sentence(study, trial, trials, name, ranges)))
        _keep_best(study, folder)

    left = trials - len([one for one in study.trials if one.state.is_finished()])
    if left < trials:
        say(Said(f"going on with the study in {folder}: {max(0, left)} of {trials} trials are left"))
    study.optimize(objective, n_trials=max(0, left), callbacks=[tell], catch=(TrainingError,))
    return _finished(optuna, study, folder, out, fixed, ranges, name, say)


class _Trial:
    """Hears one run, reports its scores, and cuts it short where it falls behind; leaves no half-made folder."""

    def __init__(self, optuna: Any, trial: Any, metric: str, place: Path) -> None:
        self.optuna, self.trial, self.metric, self.place = optuna, trial, metric, place

    def __enter__(self) -> _Trial:
        return self

    def __exit__(self, kind: Any, *problem: object) -> None:
        if kind is not None:
            shutil.rmtree(self.place, ignore_errors=True)

    def __call__(self, event: Any) -> None:
        if isinstance(event, Evaluated) and self.metric in event.metrics:
            self.trial.report(event.metrics[self.metric], event.update)
            if self.trial.should_prune():
                raise self.optuna.TrialPruned


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("rehead search needs Optuna: pip install 'rehead[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna: Any, folder: Path, fixed: Mapping[str, Any], ranges: Mapping[str, Range], seed: int) -> Any:
    study = optuna.create_study(
        study_name="rehead",
        storage=f"sqlite:///{folder / STUDY}",
        direction="maximize",
        # a study that goes on should not draw its first values once more
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    now = json.dumps({"fixed": fixed, "ranges": {key: str(value) for key, value in ranges.items()}}, sort_keys=True)
    before = study.user_attrs.get("asked", now)
    if before != now:
        raise ConfigError(
            f"{folder} holds another search: its settings or ranges differ. Choose another --out, or remove that folder"
        )
    study.set_user_attr("asked", now)
    return study


def _parted(content: Mapping[str, Any], above: str = "") -> tuple[dict[str, Any], dict[str, Range]]:
    """The content without its ranges, and the ranges by dotted key."""
    fixed: dict[str, Any] = {}
    ranges: dict[str, Range] = {}
    for key, value in content.items():
        dotted = f"{above}{key}"
        if isinstance(value, Mapping) and ({"low", "high"} <= set(value) or set(value) == {"choices"}):
            ranges[dotted] = _range(dotted, value)
        elif isinstance(value, Mapping):
            fixed[key], inner = _parted(value, f"{dotted}.")
            ranges |= inner
        else:
            fixed[key] = value
    return fixed, ranges


def _range(key: str, value: Mapping[str, Any]) -> Range:
    numbers = {name: configfile.number(value[name]) for name in ("low", "high", "step") if name in value}
    unknown = set(value) - {"low", "high", "step", "log", "choices"}
    choices = value.get("choices")
    if unknown or None in numbers.values() or (choices is not None and not (isinstance(choices, list) and choices)):
        raise ConfigError(f"{key}: a range reads {{low: 1e-5, high: 1e-3, log: true}} or {{choices: [16, 32]}}")
    low, high = numbers.get("low") or 0, numbers.get("high") or 0
    if choices is None and not low < high:
        raise ConfigError(f"{key}: low {value['low']} should be below high {value['high']}")
    if value.get("log") and ("step" in value or low <= 0):
        raise ConfigError(f"{key}: a range with log has no step, and begins above 0")
    return Range(**numbers, log=bool(value.get("log")), choices=tuple(choices) if choices is not None else None)


def _checked(fixed: Mapping[str, Any], ranges: Mapping[str, Range]) -> TrainConfig:
    """A config of the ranges' first ends; every end is tried, so that a wrong one is refused before any trial."""
    first = {key: range_.ends()[0] for key, range_ in ranges.items()}
    for key, range_ in ranges.items():
        for end in range_.ends():
            configfile.build(configfile.laid(fixed, first | {key: end}))
    return configfile.build(configfile.laid(fixed, first))


def _sentence(study: Any, trial: Any, trials: int, name: str, ranges: Mapping[str, Range]) -> str:
    values = ", ".join(f"{key}={_value(ranges[key], drawn)}" for key, drawn in trial.params.items())
    state = trial.state.name.lower()
    if state != "complete":
        word = {"pruned": "cut short", "fail": "diverged"}.get(state, state)
        return f"trial {trial.number + 1} of {trials}: {word} with {values}"
    best = " (best)" if study.best_trial.number == trial.number else ""
    return f"trial {trial.number + 1} of {trials}: {name} {trial.value:.4f}{best} with {values}"


def _value(range_: Range, drawn: Any) -> Any:
    if range_.choices is not None:
        return range_.choices[drawn]
    return f"{drawn:.4g}" if isinstance(drawn, float) else drawn


def _completed(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _keep_best(study: Any, folder: Path) -> None:
    """Only the best trial's model stays: a search of many trials would fill the disk."""
    best = _place(folder, study.best_trial.number) if _completed(study) else None
    for place in folder.glob("trial-*"):
        if place != best:
            shutil.rmtree(place, ignore_errors=True)


def _place(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:03d}"


def _finished(
    optuna: Any,
    study: Any,
    folder: Path,
    out: Path,
    fixed: Mapping[str, Any],
    ranges: Mapping[str, Range],
    name: str,
    say: Callable[[Any], None],
) -> SearchResult:
    pictures.trials(
        [(one.number + 1, one.value, one.state.name.lower()) for one in study.trials], name, folder / PICTURE
    )
    if not _completed(study):
        raise TrainingError("no trial came to an end: narrow the ranges")
    best = study.best_trial
    values = {key: _plain(ranges[key], drawn) for key, drawn in best.params.items()}
    config = configfile.build(configfile.laid(fixed, values))
    (folder / BEST).write_text(configfile.dump(config), encoding="utf-8")
    place = _place(folder, best.number)
    if place.is_dir():
        artifact.publish(place / out.name, out)
        shutil.rmtree(place, ignore_errors=True)
        say(Saved(str(out)))
    elif not out.is_dir():
        say(Warned(f"the best trial's model is gone: rehead finetune --config {folder / BEST} trains it again"))
    return SearchResult(out, config, best.value, len(study.trials))


def _plain(range_: Range, drawn: Any) -> Any:
    return range_.choices[drawn] if range_.choices is not None else drawn
