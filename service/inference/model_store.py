"""A name to a checked model folder, and to whatever was loaded from it: once, when first wanted.

Knows: which names are served, which one is the default, what is loaded, what failed to load and why.
Does not know: what loading means (it is handed a function), HTTP, requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from finetune.core.errors import FinetuneError
from finetune.core.hub import download
from finetune.core.model_folder import ModelFolder, find, read, served
from service.errors import ModelNotFound, ServiceError

T = TypeVar("T")
PREFERRED_DEFAULT = "sentiment"


class ModelStore(Generic[T]):
    """The models of a folder and those that ship, by served name; safe to use from many threads.

    Args:
        models_dir: the folder of models; the shipped ones come after it.
        load: makes of a checked folder what the store hands out.
        default: the name that answers where none is given.

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
        self._guard = threading.Lock()
        self._default = default
        if default is not None:
            self.folder_path(default)

    def names(self) -> list[str]:
        """Every served name; the folder is looked at anew, so a model trained meanwhile is there."""
        return list(served(self._models_dir))

    @property
    def default_name(self) -> str:
        """The name that answers at `/`: the chosen one, else `sentiment`, else the first.

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
        """Look for the default once: whoever asks for it later need not read the folder.

        Raises:
            ModelNotFound: it is not served, or nothing is.
        """
        self._default = self.default_name
        self.folder_path(self._default)

    def folder_path(self, name: str) -> Path:
        """Where a served name lies. Paths and Hub ids are no served names.

        Raises:
            ModelNotFound: the name is not served.
        """
        found = served(self._models_dir)
        if name not in found:
            raise ModelNotFound(f"no model {name!r} is served", hint=f"the names are {', '.join(found) or 'none'}")
        return found[name]

    def folder(self, name: str) -> ModelFolder:
        """The checked folder of a served name, without loading it."""
        return read(self.folder_path(name))

    def get(self, name: str) -> T:
        """What was loaded from the served name; loads it on the first call, while other names stay available.

        Raises:
            ModelNotFound: the name is not served.
            CheckpointError, BackendFailed: its folder cannot be used.
        """
        if name in self._loaded:
            return self._loaded[name]
        path = self.folder_path(name)
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(read(path, check_hashes=True))
            return self._loaded[name]

    def loaded_as(self, name: str) -> T | None:
        """What was loaded from a name; None where nothing was."""
        return self._loaded.get(name)

    def loaded(self) -> list[str]:
        """The names that are loaded."""
        return list(self._loaded)

    def preload(self) -> Iterator[tuple[str, str | None]]:
        """Load every served model; yields each name, with the reason where it failed."""
        for name in self.names():
            try:
                self.get(name)
            except (ServiceError, FinetuneError) as error:
                yield name, str(error)
            else:
                yield name, None


def resolve(name: str | PathLike[str], models_dir: str | PathLike[str] | None = "models") -> ModelFolder:
    """The checked folder that a path, a served name or a Hub id leads to, tried in that order.

    Raises:
        CheckpointError: it leads nowhere, or to a folder that cannot be used.
    """
    return read(download(find(str(name), models_dir), models_dir).source)


def describe(name: str, folder: ModelFolder) -> dict[str, Any]:
    """What there is to say about a served model, ready for JSON; the same for every door."""
    headline = folder.headline
    return {
        "name": name,
        "task": "zero-shot" if folder.is_zero_shot else folder.settings.task,
        "labels": list(folder.labels.names),
        "base": folder.settings.base or str(folder.config.get("model_type", "")),
        "size_bytes": folder.size_bytes,
        "metric": {"name": headline[0], "value": headline[1]} if headline is not None else None,
    }
