"""The models of a server: the default one loads before the first request, the others while requests are answered."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

from service.errors import BackendFailed
from service.inference.engine import Engine
from service.inference.model_store import ModelStore, describe

THREAD = "rehead-preload"
STOP_S = 1.0
"""Seconds that a server which stops waits for a model that is being loaded or measured."""


class Preload:
    """Loads the models of a store, and measures runtimes that were not measured on this machine yet.

    Args:
        say: receives a line or two for each model, and a last one that begins with `ready: `.
        is_draining: whether the server shuts down, and nothing more should be loaded.
    """

    def __init__(
        self, store: ModelStore[Engine], say: Callable[[str], None], is_draining: Callable[[], bool] = lambda: False
    ) -> None:
        self._store, self._say, self._is_draining = store, say, is_draining
        self._names = store.preload()
        self._stop, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._rest, name=THREAD, daemon=True)

    def first(self) -> None:
        """Load the default model; another one where it cannot be loaded.

        Raises:
            BackendFailed: no model could be loaded.
        """
        for name, problem in self._names:
            self._tell(name, problem)
            if problem is None:
                return
        raise BackendFailed("no model could be loaded")

    def start(self) -> None:
        """Load the others, and measure, in a thread."""
        self._thread.start()

    def wait(self) -> None:
        """Return once everything is loaded and measured."""
        self._done.wait()

    def stop(self) -> None:
        """Load and measure nothing more."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _rest(self) -> None:
        try:
            for name, problem in self._names:
                self._tell(name, problem)
                if self._is_stopped:
                    return
            for name in self._store.loaded():
                if self._is_stopped:
                    return
                try:
                    self._store.get(name).measure()
                except Exception as error:  # it answers by torch, and the others are still to be measured
                    self._say(f"{name}: its runtimes cannot be measured ({error})")
            gc.freeze()  # a collection that walks through loaded models would stop every thread
            self._say(f"ready: {', '.join(self._store.loaded())}")
        finally:
            self._names.close()
            self._done.set()

    @property
    def _is_stopped(self) -> bool:
        return self._stop.is_set() or self._is_draining()

    def _tell(self, name: str, problem: str | None) -> None:
        if problem is not None:
            self._say(f"skipped {name}: {problem}")
            return
        engine = self._store.get(name)
        entry = describe(name, engine.folder)
        labels = "any labels" if entry["task"] == "zero-shot" else ", ".join(entry["labels"][:8])
        runtime = f"{engine.backend.name} in {engine.backend.precision}"
        self._say(f"loaded {name}: {entry['task']}, {labels}")
        self._say(f"    by {engine.backend.why or runtime}")
