"""The models whose text embeddings a corpus is clustered by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.bases import text_embedder
from finetune.core.model_folder import served
from service.batch.scoring_task import scoring_task
from service.inference.cache_folder import hash_of
from service.inference.engine import Engine
from service.inference.model_store import resolve
from service.labeling.config import DistillConfig
from service.labeling.corpus import SAMPLE_ROWS
from service.labeling.word_vectors import WordVectors
from service.settings import RuntimeSettings

SECOND = "topics-multilingual"
"""A second view of the texts, of another family than `topics`: clusters of both are better than those of one."""

WORDS = "words"
"""The name of `WordVectors` among the models: a third view, which knows the corpus alone."""

WEIGHTS = {WORDS: 0.7}
"""Length of a view's vectors beside those of the others, where it is not 1."""

WITHOUT = ("none", "priors")
"""Refinements that look at no embeddings."""

Embed = Callable[[Sequence[str]], npt.NDArray[Any]]
"""texts -> embeddings `[N, H]`"""


class Embedders:
    """The embedding models of a run, loaded when they are needed first.

    Args:
        config: `embeddings` names the models; without any, they are the teacher's own, or the base's where the teacher
            has none, and `SECOND` where it is installed.
        base: encoder of the student.
        teacher: the model that the teacher is, None where it is none.
        texts: the corpus, which word vectors are fitted on.
    """

    def __init__(self, config: DistillConfig, base: str, teacher: str | None, texts: Sequence[str]) -> None:
        self._config, self._base, self._teacher, self._texts = config, base, teacher, texts
        self._loaded: dict[str, tuple[Any, Embed]] = {}
        self._engines: list[Engine] = []

    @property
    def use_teacher(self) -> bool:
        """Whether the teacher's own embeddings are taken, where it has some."""
        return not self._config.embeddings

    def names(self, teacher_has_own: bool) -> tuple[str, ...]:
        """Return the models whose embeddings are computed beside the teacher's own."""
        if self._config.refinement.name in WITHOUT:
            return ()
        if self._config.embeddings:
            return self._config.embeddings
        first = () if teacher_has_own else (self._base,)
        is_there = SECOND in served(self._config.models_dir) and SECOND not in (self._teacher, *first)
        words = () if self._config.multi_label else (WORDS,)
        return (*first, *((SECOND,) if is_there else ()), *words)

    def __call__(self, name: str) -> tuple[Any, Embed]:
        """Return what decides the embeddings of a model, as JSON, and the function that computes them; the former is
        None for word vectors, which every run fits anew.

        Raises:
            CheckpointError: the model cannot be used.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def close(self) -> None:
        """Release the models."""
        for engine in self._engines:
            engine.close()

    def _load(self, name: str) -> tuple[Any, Embed]:
        config = self._config
        if name == WORDS:
            return None, WordVectors(_drawn(self._texts, config.seed), config.seed)
        folder = resolve(name, config.models_dir)
        if folder.is_zero_shot:
            engine = Engine.load(folder, RuntimeSettings.from_environment(device=config.device))
            self._engines.append(engine)
            label = ("text",)  # its own embedding is not looked at

            def of_engine(texts: Sequence[str]) -> npt.NDArray[Any]:
                return np.asarray(engine.raw_scores(texts, label, "{}", "embedding", "shared_text").embeddings)

            return ["embeddings", scoring_task(engine, None).identity], of_engine
        patterns = ("config.json", "*.safetensors", "*token*", "vocab*")
        files = sorted({file for pattern in patterns for file in folder.path.glob(pattern)})
        embed = text_embedder(name, models_dir=config.models_dir, device=config.device or "auto")
        return ["embeddings", hash_of(files)], embed


def _drawn(texts: Sequence[str], seed: int) -> Sequence[str]:
    if len(texts) <= SAMPLE_ROWS:
        return texts
    return [texts[place] for place in np.random.default_rng(seed).choice(len(texts), SAMPLE_ROWS, False).tolist()]
