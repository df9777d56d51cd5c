"""What the callables of both kinds of model share: the engine, its runtime, and the upload to the Hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.core.model_folder import ModelFolder
from service.errors import BadRequest
from service.hub_upload import MESSAGE, upload
from service.inference.engine import Engine
from service.schema import Answer
from service.settings import RuntimeSettings


class LoadedModel:
    """A loaded model.

    Attributes:
        engine: what computes.
        batch_size: maximum rows of a batch; None for what suits the runtime.
    """

    engine: Engine
    batch_size: int | None

    @property
    def folder(self) -> ModelFolder:
        """The model's folder: labels, task, settings, metrics."""
        return self.engine.folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        with_texts: bool = False,
        commit_message: str = MESSAGE,
    ) -> str:
        """Upload the model's folder, card and all, to the Hub; return the address of the repository.

        Args:
            repo_id: OWNER/NAME; created if it is new.
            private: make the repository private, if it is new.
            with_texts: also upload the tables of the report that hold texts.
            commit_message: the message of the commit.

        Raises:
            BadRequest: the name is invalid, nobody is logged in, or the Hub refused or cannot be reached.
        """
        return upload(self.folder, repo_id, private=private, with_texts=with_texts, message=commit_message).address


def engine_of(folder: ModelFolder, **runtime: Any) -> Engine:
    """Return the engine of a checked folder; `runtime` are fields of RuntimeSettings, None for the environment's."""
    settings = RuntimeSettings.from_environment(**runtime)
    return Engine.load(folder, settings, log=logging.getLogger("rehead").info)


def scores_of(answers: Sequence[Answer], columns: int) -> npt.NDArray[np.float64]:
    """Return the scores of answers, `[N, columns]`."""
    return np.array([answer.scores for answer in answers], dtype=np.float64).reshape(-1, columns)


def texts_of(texts: Any) -> list[Any]:
    """Return texts as a list.

    Raises:
        BadRequest: they are a single text, or no iterable.
    """
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise BadRequest(f"texts must be a list of texts, not {type(texts).__name__}: write [text] for a single one")
    return list(texts)
