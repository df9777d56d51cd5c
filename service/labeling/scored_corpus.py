"""A corpus with the teacher's scores and embeddings, in files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.errors import DataError
from service.labeling.config import DistillConfig
from service.labeling.corpus import Corpus
from service.labeling.embedders import WEIGHTS, Embed, Embedders
from service.labeling.none_of_these import with_none
from service.labeling.score_cache import NAME, ScoreCache, ScoredText
from service.labeling.teacher import Teacher

CHUNK = 256
"""Texts that are scored between two writes of the cache: what a killed run computes again, at most."""

Progress = Callable[[str, int, int, int], None]
"""Called with `scored` or `embedded`, the texts done, all of them, and those done that were not in the cache."""


def silent(verb: str, done: int, rows: int, computed: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class ScoredTexts:
    """The teacher's answers to texts.

    Attributes:
        logits: log-scores `[N, L]`, of `none of these` too where the run has it.
        fit: probability that any label fits `[N]`, NaN where the teacher has no such number.
        embeddings: `[N, H]` float16 of each embedding model.
        weights: length of each model's vectors beside those of the others.
        answered: which texts have an answer `[N]`; logits of the others are zeros.
        computed: texts that were not in the cache.
    """

    logits: npt.NDArray[np.float32]
    fit: npt.NDArray[np.float32]
    embeddings: tuple[npt.NDArray[np.float16], ...]
    weights: tuple[float, ...]
    answered: npt.NDArray[np.bool_]
    computed: int

    def chunks(self, size: int = 8192) -> Iterator[slice]:
        """Yield the slices of all rows."""
        for start in range(0, len(self.logits), size):
            yield slice(start, start + size)

    def parts(self, rows: slice | npt.NDArray[Any]) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
        """Return logits and the embeddings of each model of some rows, in memory."""
        embeddings = [np.asarray(part[rows], dtype=np.float32) for part in self.embeddings]
        return np.asarray(self.logits[rows], dtype=np.float64), embeddings


def score_corpus(
    config: DistillConfig,
    teacher: Teacher,
    corpus: Corpus,
    embedders: Embedders,
    progress: Progress = silent,
) -> ScoredTexts:
    """Return the answers to all texts, in files of the working folder; what was answered before is read from its cache.

    Raises:
        DataError: the teacher has no answer to any text.
    """
    config.work.mkdir(parents=True, exist_ok=True)
    scored = _scored(_Store(config.work), config, teacher, corpus, embedders, progress)
    if not scored.answered.any():
        raise DataError(f"{teacher.name} gave no usable answer to any text: look at its answers", file=corpus.name)
    return scored


def score_texts(config: DistillConfig, teacher: Teacher, texts: Sequence[str], embedders: Embedders) -> ScoredTexts:
    """Return the answers to a few texts, in memory, as `score_corpus` does."""
    corpus = Corpus("rows labeled by people", texts, np.arange(len(texts)) + 1, None, {}, ())
    return _scored(_Store(None), config, teacher, corpus, embedders, silent)


def _scored(
    store: _Store, config: DistillConfig, teacher: Teacher, corpus: Corpus, embedders: Embedders, progress: Progress
) -> ScoredTexts:
    count, labels = len(corpus.texts), len(config.names)
    logits, fit = store.array("logits", (count, labels), np.float32), store.array("fit", (count,), np.float32)
    answered, own, computed = np.zeros(count, dtype=bool), None, 0
    cache = ScoreCache(config.work / NAME, teacher.identity) if teacher.identity is not None else None
    progress("scored", 0, count, 0)
    try:
        for start, texts in corpus.chunks(CHUNK):
            answers, fresh = cache.completed(texts, teacher) if cache is not None else (teacher(texts), len(texts))
            computed += fresh
            rows = slice(start, start + len(texts))
            logits[rows], fit[rows], answered[rows] = _rows(config, answers)
            first = answers[0].embedding
            if first is not None and embedders.use_teacher:
                if own is None:
                    own = store.array("embeddings", (count, len(first)), np.float16)
                own[rows] = np.stack([answer.embedding for answer in answers])  # type: ignore[misc]
            progress("scored", start + len(texts), count, computed)
    finally:
        if cache is not None:
            cache.close()
    names = embedders.names(own is not None)
    others = [
        _embeddings(store, f"embeddings_{place}", config, corpus, *embedders(name), progress)
        for place, name in enumerate(names)
    ]
    weights = [WEIGHTS.get(name, 1.0) for name in names]
    if own is not None:
        others, weights = [own, *others], [1.0, *weights]
    return ScoredTexts(logits, fit, tuple(others), tuple(weights), answered, computed)


def _rows(config: DistillConfig, answers: Sequence[ScoredText]) -> tuple[Any, Any, Any]:
    answered = np.array([answer.logits is not None for answer in answers])
    fit = np.array([answer.fit for answer in answers], dtype=np.float32)
    empty = np.zeros(len(config.labels), dtype=np.float32)
    logits = np.stack([empty if answer.logits is None else answer.logits for answer in answers])
    return (with_none(logits, np.nan_to_num(fit, nan=1.0)) if config.none_of_these else logits), fit, answered


def _embeddings(
    store: _Store, name: str, config: DistillConfig, corpus: Corpus, identity: Any, embed: Embed, progress: Progress
) -> Any:
    def compute(texts: list[str]) -> list[ScoredText]:
        return [ScoredText(None, float("nan"), vector) for vector in embed(texts)]

    embeddings, computed = None, 0
    cache = ScoreCache(config.work / NAME, identity) if identity is not None else None
    progress("embedded", 0, len(corpus.texts), 0)
    try:
        for start, texts in corpus.chunks(CHUNK):
            answers, fresh = cache.completed(texts, compute) if cache is not None else (compute(texts), len(texts))
            computed += fresh
            vectors = np.stack([answer.embedding for answer in answers])  # type: ignore[misc]
            if embeddings is None:
                embeddings = store.array(name, (len(corpus.texts), vectors.shape[1]), np.float16)
            embeddings[start : start + len(texts)] = vectors
            progress("embedded", start + len(texts), len(corpus.texts), computed)
    finally:
        if cache is not None:
            cache.close()
    return embeddings


class _Store:
    """Makes arrays: in files of a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        if self._folder is None:
            return np.zeros(shape, dtype=dtype)
        return np.lib.format.open_memmap(self._folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
