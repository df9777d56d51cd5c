"""Served models by name: their folders, and what was loaded from them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from finetune.core.errors import CheckpointError, FinetuneError
from finetune.core.hub import download
from finetune.core.model_folder import ModelFolder, find, read, served
from service.errors import ModelNotFound, ServiceError
from service.inference.cache_folder import state_of

T = TypeVar("T")
PREFERRED_DEFAULT = "sentiment"


class ModelStore(Generic[T]):
    """The models of a folder and those that ship, by served name; thread-safe.

    Args:
        models_dir: the folder of models; the shipped ones come after it.
        load: returns what the store holds for a checked folder.
        default: the name that is used where a request has none.

    Raises:
        ModelNotFound: `default` is not served.
    """

    def __init__(
        self, models_dir: str | PathLike[str], load: Callable[[ModelFolder], T], *, default: str | None = None
    ) -> None:
        self._models_dir = models_dir
        self._load = load
        self._loaded: dict[str, T] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._failed: dict[str, tuple[list[tuple[str, int, int]], CheckpointError]] = {}
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._settled.set()
        self._default = default
        if default is not None:
            self.folder_path(default)

    def names(self) -> list[str]:
        """Return every served name; the folder is read again, so that new models are included."""
        return list(served(self._models_dir))

    @property
    def default_name(self) -> str:
        """The name that is used where a request has none: the configured one, else `sentiment`, else the first.

        Raises:
            ModelNotFound: nothing is served.
        """
        if self._default is not None:
            return self._default
        names = self.names()
        if not names:
            raise ModelNotFound("no model is served", hint=f"put a model folder into {self._models_dir}")
        return PREFERRED_DEFAULT if PREFERRED_DEFAULT in names else names[0]

    def pin_default(self) -> None:
        """Resolve the default once, so that later requests do not read the folder.

        Raises:
            ModelNotFound: it is not served, or nothing is.
        """
        self._default = self.default_name
        self.folder_path(self._default)

    def folder_path(self, name: str) -> Path:
        """Return the folder of a served name; paths and Hub ids are none.

        Raises:
            ModelNotFound: the name is not served.
        """
        paths = served(self._models_dir)
        if name not in paths:
            raise ModelNotFound(f"no model {name!r} is served", hint=f"the names are {', '.join(paths) or 'none'}")
        return paths[name]

    def folder(self, name: str) -> ModelFolder:
        """Return the checked folder of a served name, without loading it."""
        return read(self.folder_path(name))

    def get(self, name: str) -> T:
        """Return the loaded model of a served name; the first call loads it, without blocking other names.

        Raises:
            ModelNotFound: the name is not served.
            CheckpointError, BackendFailed: its folder is invalid.
        """
        if name in self._loaded:
            return self._loaded[name]
        path = self.folder_path(name)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._loaded:
                self._loaded[name] = self._load_once(name, path)
            return self._loaded[name]

    def _load_once(self, name: str, path: Path) -> T:
        """Load a model; a folder that failed is not read again until it changes."""
        state = state_of(path)
        failed = self._failed.get(name)
        if failed is not None and failed[0] == state:
            raise failed[1]
        try:
            return self._load(read(path, check_hashes=True))
        except CheckpointError as error:
            self._failed[name] = state, error.with_traceback(None)
            raise

    def loaded_as(self, name: str) -> T | None:
        """Return the loaded model of a name, None where it is not loaded."""
        return self._loaded.get(name)

    def loaded(self) -> list[str]:
        """Return the names that are loaded."""
        return list(self._loaded)

    def preload(self) -> Generator[tuple[str, str | None]]:
        """Load every served model, the default one first; yield each name, with the error message where it failed."""
        self._settled.clear()
        try:
            names = self.names()
            first = self.default_name if names else None
            for name in sorted(names, key=lambda name: name != first):
                try:
                    self.get(name)
                except (ServiceError, FinetuneError) as error:
                    yield name, str(error)
                except Exception as error:  # whatever is wrong with a folder, the others are served
                    yield name, f"{type(error).__name__}: {error}"
                else:
                    yield name, None
        finally:
            self._settled.set()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is being preloaded."""
        return self._settled.is_set()

    def settle(self, timeout_s: float | None = None) -> bool:
        """Return once nothing is being preloaded, or after a time; and whether nothing is."""
        return self._settled.wait(timeout_s)


def resolve(name: str | PathLike[str], models_dir: str | PathLike[str] | None = "models") -> ModelFolder:
    """Return the checked folder of a path, a served name or a Hub id, tried in that order.

    Raises:
        CheckpointError: there is no such model, or its folder is invalid.
    """
    return read(download(find(str(name), models_dir), models_dir).source)


def describe(name: str, folder: ModelFolder) -> dict[str, Any]:
    """Return the facts about a served model as JSON values; the same in every interface.

    `metric` holds name, value, split and rows of the headline metric, and is None for a model without a report.
    """
    headline, measured = folder.headline, folder.metrics or {}
    metric = None
    if headline is not None:
        metric = {"name": headline[0], "value": headline[1]}
        metric |= {key: measured[key] for key in ("split", "rows") if key in measured}
    return {
        "name": name,
        "task": "zero-shot" if folder.is_zero_shot else folder.settings.task,
        "labels": list(folder.labels.names),
        "base": folder.settings.base or str(folder.config.get("model_type", "")),
        "size_bytes": folder.size_bytes,
        "metric": metric,
    }
