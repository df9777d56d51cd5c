"""Teachers: what scores texts by labels without any labeled text. The table TEACHERS closes the file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from finetune.core.labels import shown
from finetune.core.scores import Floats
from service.batch.scoring_task import scoring_task
from service.errors import BadRequest
from service.inference import zero_shot
from service.inference.engine import Engine
from service.inference.identifiers import spelled_out
from service.inference.model_store import resolve
from service.inference.zero_shot_scorer import nli_model
from service.labeling.config import DistillConfig
from service.labeling.endpoint import endpoint
from service.labeling.score_cache import ScoredText
from service.schema import TextInput
from service.settings import RuntimeSettings

SMALLEST = 1e-6
"""Probabilities below this count as this, so that logarithms are finite."""

LABELED_ROWS = 4096
"""Texts times labels of one call of a zero-shot model."""

Callable_ = Callable[[Sequence[str], Sequence[str]], Any]


class Teacher(Protocol):
    """Scores texts by the labels it was made for.

    Attributes:
        name: for the report and the card.
        identity: what decides its scores, as JSON; None where they must not be cached.
        base: the model whose body a student may start from, None if it has none.
    """

    name: str
    identity: Any
    base: str | None

    def __call__(self, texts: list[str]) -> list[ScoredText]:
        """Return an answer to each text, in order."""

    def announce(self, texts: int, characters: int) -> str:
        """Return what scoring so many texts will take, in a sentence."""

    def close(self) -> None:
        """Release what the teacher holds."""


@dataclass
class ZeroShotTeacher:
    """A zero-shot or NLI model: scores, the fit of the best label, and the texts' embeddings where it has them."""

    engine: Engine
    config: DistillConfig
    name: str
    base: str | None

    def __post_init__(self) -> None:
        roles, settings = nli_model(self.engine.folder)
        templates = self.config.templates or (settings.hypothesis_template,)
        self._roles, self._settings = roles, settings
        self._templates = [zero_shot.check_template(template) for template in templates]
        self._words = zero_shot.parse_labels(list(words_of(self.config)))
        task = scoring_task(self.engine, None).identity
        self.identity = ["zero_shot", task, list(self._words), self._templates, self.config.multi_label]

    def __call__(self, texts: list[str]) -> list[ScoredText]:
        """See `Teacher`."""
        step = max(1, LABELED_ROWS // len(self._words))
        return [answer for start in range(0, len(texts), step) for answer in self._part(texts[start : start + step])]

    def _part(self, texts: list[str]) -> list[ScoredText]:
        logs, fits, embeddings = [], [], None
        for template in self._templates:
            raw = self.engine.raw_scores(texts, self._words, template, self._settings.scorer, self._settings.attention)
            embeddings = raw.embeddings
            alone = self._collapsed(raw, multi_label=True)
            logs.append(log_odds(alone) if self.config.multi_label else logarithm(self._collapsed(raw, False)))
            fits.append(alone.max(axis=1))
        rows = np.mean(logs, axis=0).astype(np.float32)
        fit = np.mean(fits, axis=0)
        vectors = [None] * len(texts) if embeddings is None else list(embeddings)
        return [ScoredText(*answer) for answer in zip(rows, fit.tolist(), vectors, strict=True)]

    def _collapsed(self, raw: Any, multi_label: bool) -> Floats:
        return zero_shot.collapse(
            raw.logits,
            raw.cosine,
            roles=self._roles,
            scorer=self._settings.scorer,
            fusion=self._settings.fusion,
            multi_label=multi_label,
        )

    def announce(self, texts: int, characters: int) -> str:
        """See `Teacher`."""
        return f"{self.name} scores {texts:,} texts by {len(self._words)} labels"

    def close(self) -> None:
        """See `Teacher`."""
        self.engine.close()


@dataclass
class FineTunedTeacher:
    """A fine-tuned model whose labels are those of the run, in any order; it may have more of them."""

    engine: Engine
    config: DistillConfig
    name: str
    base: str | None

    def __post_init__(self) -> None:
        names, task = self.engine.folder.labels.names, self.engine.folder.labels.task
        missing = [label for label in self.config.labels if label not in names]
        if missing or task == "regression" or (task == "multi_label") != self.config.multi_label:
            reason = f"it has no label {missing[0]!r}" if missing else f"its task is {task}"
            raise BadRequest(
                f"{self.name} cannot teach these labels: {reason} (labels: {shown(names)}); name a zero-shot model, or "
                "labels that it has"
            )
        self._columns = [names.index(label) for label in self.config.labels]
        self.identity = ["fine_tuned", scoring_task(self.engine, None).identity, list(self.config.labels)]

    def __call__(self, texts: list[str]) -> list[ScoredText]:
        """See `Teacher`."""
        answers = self.engine.classify([TextInput(text) for text in texts])
        scores = np.array([answer.scores for answer in answers], dtype=np.float64)[:, self._columns]
        return scored_texts(scores, self.config.multi_label)

    def announce(self, texts: int, characters: int) -> str:
        """See `Teacher`."""
        return f"{self.name} scores {texts:,} texts by its {len(self._columns)} labels"

    def close(self) -> None:
        """See `Teacher`."""
        self.engine.close()


@dataclass
class CallableTeacher:
    """A Python function `(texts, labels) -> scores [N, L]`; cached only where it has an attribute `identity`."""

    function: Callable_
    config: DistillConfig
    base: str | None = None

    def __post_init__(self) -> None:
        self.name = str(getattr(self.function, "__name__", type(self.function).__name__))
        own = getattr(self.function, "identity", None)
        self.identity = None if own is None else ["callable", own, list(words_of(self.config)), self.config.multi_label]

    def __call__(self, texts: list[str]) -> list[ScoredText]:
        """See `Teacher`.

        Raises:
            BadRequest: the function returned no probabilities `[N, L]`.
        """
        scores = np.asarray(self.function(texts, list(words_of(self.config))), dtype=np.float64)
        expected = (len(texts), len(self.config.labels))
        if scores.shape != expected or not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1 + 1e-6:
            raise BadRequest(
                f"the teacher {self.name} should return probabilities of shape {expected}, and returned shape "
                f"{scores.shape} with values from {scores.min() if scores.size else 0:g} to "
                f"{scores.max() if scores.size else 0:g}"
            )
        return scored_texts(scores, self.config.multi_label)

    def announce(self, texts: int, characters: int) -> str:
        """See `Teacher`."""
        return f"the function {self.name} scores {texts:,} texts"

    def close(self) -> None:
        """See `Teacher`."""


def words_of(config: DistillConfig) -> tuple[str, ...]:
    """Return what the teacher reads for each label: its description, or its name spelled out."""
    words = spelled_out(config.labels)
    return tuple(config.descriptions.get(label) or word for label, word in zip(config.labels, words, strict=True))


def scored_texts(scores: npt.NDArray[np.float64], multi_label: bool) -> list[ScoredText]:
    """Return probabilities `[N, L]` as answers; a row of zeros in a single-label task is no answer."""
    logits = log_odds(scores) if multi_label else logarithm(scores)
    rows = logits.astype(np.float32)
    unusable = np.zeros(len(rows), dtype=bool) if multi_label else scores.sum(axis=1) <= 0
    return [
        ScoredText(None if empty else row, float("nan"), None)
        for row, empty in zip(rows, unusable.tolist(), strict=True)
    ]


def logarithm(scores: npt.ArrayLike) -> Floats:
    """Return the logarithm of probabilities, those below `SMALLEST` as it."""
    return np.asarray(np.log(np.maximum(np.asarray(scores, dtype=np.float64), SMALLEST)))


def log_odds(scores: npt.ArrayLike) -> Floats:
    """Return log(p / (1 - p)), with p between `SMALLEST` and 1 - `SMALLEST`; `sigmoid` is its inverse."""
    values = np.clip(np.asarray(scores, dtype=np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(values) - np.log1p(-values))


def model_teacher(config: DistillConfig, *, model: str = "topics") -> Teacher:
    """A zero-shot, NLI or fine-tuned model, by path, served name or Hub id."""
    folder = resolve(model, config.models_dir)
    settings = RuntimeSettings.from_environment(device=config.device)
    kind = ZeroShotTeacher if folder.is_zero_shot else FineTunedTeacher
    engine = Engine.load(folder, settings)
    try:
        return kind(engine, config, model, model)
    except BaseException:
        engine.close()
        raise


def teacher_of(config: DistillConfig, function: Callable_ | None = None) -> Teacher:
    """Return the teacher of a run.

    Args:
        function: a Python teacher, in place of the configured one.

    Raises:
        ConfigError: an unknown teacher or option.
        BadRequest: the model cannot teach these labels.
    """
    from finetune.core.registry import pick

    if function is not None:
        if len(inspect.signature(function).parameters) < 2:
            raise BadRequest("a Python teacher takes two arguments: the texts and the labels")
        return CallableTeacher(function, config)
    return pick(TEACHERS, config.teacher.name, config.teacher.options, what="teacher")(config)


TEACHERS: Mapping[str, Callable[..., Teacher]] = {"model": model_teacher, "endpoint": endpoint}
