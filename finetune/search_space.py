"""Search spaces: a config's content, with ranges in place of some values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core.errors import ConfigError

PER_CALL = ("out", "overwrite", "resume", "allow_changed")
"""Settings of one call of a search, which the study does not record."""


@dataclass(frozen=True)
class Range:
    """Values that a setting may have: between bounds, or one of a few."""

    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    def draw(self, key: str, trial: Any) -> None:
        """Let the study draw a value for `key`, which the trial's `params` then hold."""
        if self.choices is not None:
            # Optuna stores plain values only: others are drawn by their index
            trial.suggest_categorical(key, list(range(len(self.choices))))
        elif self._is_whole():
            trial.suggest_int(key, self.low, self.high, step=int(self.step or 1), log=self.log)
        else:
            trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def value(self, drawn: Any) -> Any:
        """Return the setting's value for what the study drew."""
        return self.choices[drawn] if self.choices is not None else drawn

    def probes(self) -> Sequence[Any]:
        """Return values that test the range against the setting: each choice, or the bounds and one between."""
        if self.choices is not None:
            return self.choices
        # a fraction: an integer setting rejects 8.0 to 32.0 now, not in the middle of the search
        between = self.low + (self.step if self.step is not None else (self.high - self.low) / math.e)
        return (self.low, self.high) if self._is_whole() else (self.low, self.high, between)

    def _is_whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


@dataclass(frozen=True)
class Space:
    """The space of a search.

    Attributes:
        content: a config as plain dicts, with ranges in place of some values.
        ranges: dotted key -> range.
        settings: dotted key -> value or range, as JSON.
    """

    content: Mapping[str, Any]
    ranges: Mapping[str, Range]
    settings: Mapping[str, str]

    def config(self, values: Mapping[str, Any], **settings: Any) -> TrainConfig:
        """Return the config with a value for each range, and with `settings` in place of its own."""
        return loading.build(_mapped(self.content, values.get) | settings)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return setting -> value for what a trial drew."""
        return {key: self.ranges[key].value(drawn) for key, drawn in params.items()}

    def probed(self) -> tuple[TrainConfig, list[TrainConfig]]:
        """Return the config of the first probes, and variants of it for each further choice by name.

        Every probe of every range is built.

        Raises:
            ConfigError: a value in a range is invalid for its setting.
        """
        first = {key: range_.probes()[0] for key, range_ in self.ranges.items()}
        variants = []
        for key, range_ in self.ranges.items():
            for probe in range_.probes():
                config = self.config(first | {key: probe})
                if range_.choices is not None and loading.number(probe) is None and probe != first[key]:
                    variants.append(config)
        return self.config(first), variants


def space_of(content: Mapping[str, Any]) -> Space:
    """Return the search space of a config's content.

    Raises:
        ConfigError: no range, an invalid one, or one for a setting that all trials share.
    """
    values: dict[str, Any] = {}
    _mapped(content, values.setdefault)
    ranges = {key: _range(key, value) for key, value in values.items() if _is_range(value)}
    if not ranges:
        raise ConfigError("nothing to search: give a setting a range, for example optim: {lr: {low: 1e-5, high: 1e-3}}")
    if wrong := ranges.keys() & set(PER_CALL):
        raise ConfigError(f"{min(wrong)} is the same for all trials: give it a value, not a range")
    if "checkpoint.best_by" in ranges:
        raise ConfigError("checkpoint.best_by compares the trials: give it one metric, not a range")
    settings = {key: json.dumps(value, ensure_ascii=False, default=str) for key, value in values.items()}
    return Space(content, ranges, {key: text for key, text in settings.items() if key not in PER_CALL})


def _is_range(value: Any) -> bool:
    keys = set(value) if isinstance(value, Mapping) else set()
    return keys == {"choices"} or {"low", "high"} <= keys <= {"low", "high", "log", "step"}


def _mapped(value: Any, change: Callable[[str, Any], Any], above: str = "") -> Any:
    """Return the content with `change(dotted key, value)` in place of every single value and range, also in lists."""
    if isinstance(value, Mapping) and not _is_range(value):
        return {key: _mapped(inner, change, f"{above}.{key}" if above else str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change, f"{above}.{index}") for index, item in enumerate(value)]
    return change(above, value)


def _range(key: str, value: Mapping[str, Any]) -> Range:
    if "choices" in value:
        if not isinstance(value["choices"], list | tuple) or not value["choices"]:
            raise ConfigError(f"{key}: choices must be a list of values, for example {{choices: [16, 32]}}")
        return Range(choices=tuple(value["choices"]))
    log, numbers = value.get("log", False), {}
    for name in ("low", "high", "step"):
        number = loading.number(value.get(name, 1))
        if number is None or not math.isfinite(number) or not isinstance(log, bool):
            examples = "{low: 1e-5, high: 1e-3, log: true} or {low: 1, high: 4, step: 1}"
            raise ConfigError(f"{key}: invalid range, write {examples}")
        numbers[name] = number
    low, high, step = (Decimal(str(number)) for number in numbers.values())
    if not low < high:
        raise ConfigError(f"{key}: low {value['low']} must be below high {value['high']}")
    if log and ("step" in value or low <= 0):
        raise ConfigError(f"{key}: a range with log has no step, and starts above 0")
    if "step" in value and (step <= 0 or (high - low) % step):
        raise ConfigError(f"{key}: steps of {value['step']} do not lead from {value['low']} to {value['high']}")
    return Range(numbers["low"], numbers["high"], numbers["step"] if "step" in value else None, log)
