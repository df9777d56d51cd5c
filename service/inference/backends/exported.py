"""A model exported to another runtime: once, then read from the cache folder. torch is imported only for the export."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from finetune.core.attention_mask import LEADING, PADDING, TEXT
from finetune.core.model_folder import AttentionMode, ModelFolder, write_json
from finetune.core.tokenization import Encoded
from service.errors import BackendFailed
from service.inference.backends.base import CPU_BATCH, Arrays, Outputs, Precision, tolerance
from service.inference.backends.packing import Packed, arrays_of, packed
from service.inference.cache_folder import PARTIAL, check_owner, delete_abandoned, home_of, is_intact, put, seal
from service.settings import RuntimeSettings

if TYPE_CHECKING:
    from service.inference.backends.graphs import Graph, GraphName
    from service.inference.backends.torch import TorchBackend

FORMAT = 2
"""Version of the exported graphs: files of other versions are not used."""

_EXPORTING = threading.Lock()
"""torch traces one model at a time."""

STEP = 8
INT8 = "-int8"
"""End of the name of a graph in int8."""

FACTS = "facts.json"
Run = Callable[[Arrays], list[npt.NDArray[np.float32]]]
"""A graph on a runtime: inputs by name in, outputs in order out."""


class ExportedBackend(ABC):
    """A model on another runtime; implements `service.inference.backends.base.Backend`."""

    name: ClassVar[str]
    package: ClassVar[str]
    """The package that is needed; its version is part of the cache path."""

    precisions: ClassVar[tuple[Precision, ...]]
    is_padded = True
    batch = CPU_BATCH

    def __init__(self, folder: ModelFolder, home: Path, precision: Precision, threads: int) -> None:
        self.why = ""
        self.precision: Precision = precision
        self._folder, self._home, self._threads = folder, home, threads
        self._opened: dict[str, Run] = {}
        self._process = os.getpid()
        self._torch: TorchBackend | None = None
        self.one_pass = self.shared_text = self._can_one_pass()

    @classmethod
    def load(cls, folder: ModelFolder, precision: Precision, settings: RuntimeSettings) -> Self:
        """Return the model of a checked folder, from the cache or exported now.

        Raises:
            BackendFailed: the runtime is not installed, does not compute in this precision, or its outputs differ from
                torch.
        """
        if precision not in cls.precisions:
            raise BackendFailed(f"the {cls.name} backend computes in {' or '.join(cls.precisions)}, not in {precision}")
        cls.check(precision)
        try:
            check_owner(settings.cache)
            backend = cls(folder, home_of(folder, settings.cache) / cls._place(), precision, settings.threads)
            backend._graph(backend.main_graph)
        except OSError as error:
            raise BackendFailed(
                f"the cache folder {settings.cache} cannot be used ({error.strerror or error})",
                hint="name another with REHEAD_CACHE",
            ) from error
        return backend

    @property
    def main_graph(self) -> GraphName:
        """The graph that most requests use."""
        zero_shot = self._folder.settings.zero_shot
        if zero_shot is None or zero_shot.attention == "ordinary" or not self.one_pass:
            return "rows"
        return "one_pass_logits" if zero_shot.scorer == "nli" else "one_pass"

    @classmethod
    def make_int8(cls, folder: ModelFolder, calibration: Sequence[Arrays], settings: RuntimeSettings) -> Path:
        """Write the main graph in int8 to the cache folder, with ranges from `calibration`; return its path.

        Raises:
            BackendFailed: a package for it is not installed.
        """
        from service.inference.backends.graphs import graph_of

        cls.check("int8")
        backend = cls(folder, home_of(folder, settings.cache) / cls._place(), "int8", settings.threads)
        file = backend._file(backend.main_graph)
        with (
            tempfile.TemporaryDirectory(dir=backend._home, prefix=PARTIAL) as staging,
            graph_of(backend.main_graph, folder, backend._source()) as graph,
        ):
            made = Path(staging) / file.name
            made.mkdir()
            backend.quantize(graph, made, calibration)
            backend._put(made)
        return file

    @classmethod
    def has_int8(cls, folder: ModelFolder, settings: RuntimeSettings) -> bool:
        """Return whether `make_int8` has left its graph in the cache folder, and the runtime is installed."""
        try:
            cls.check("int8")
            home = home_of(folder, settings.cache) / cls._place()
        except (BackendFailed, PackageNotFoundError):
            return False
        return any(is_intact(file) for file in home.glob(f"*{INT8}"))

    @classmethod
    @abstractmethod
    def check(cls, precision: Precision) -> None:
        """Raise BackendFailed where the runtime is not installed, or this machine has not got the precision."""

    @abstractmethod
    def write(self, graph: Graph, file: Path) -> None:
        """Make a graph for the runtime."""

    @abstractmethod
    def quantize(self, graph: Graph, file: Path, calibration: Sequence[Arrays]) -> None:
        """Make a graph in int8, its ranges taken from `calibration`."""

    @abstractmethod
    def _open(self, file: Path) -> Run:
        """The graph of a file, ready to run in `self.precision`."""

    def run(self, inputs: Arrays, *, attention: AttentionMode, embeddings: bool) -> Outputs:
        """See `Backend.run`; rows under the shared-text mask are texts with one label each."""
        if self._forked:
            return self._source().run(inputs, attention=attention, embeddings=embeddings)
        if attention == "ordinary" and not embeddings:
            inputs = self._rounded(inputs)
            arrays = {name: array for name, array in inputs.items() if name != "segments"}
            return Outputs(*self._run("rows", arrays))
        if attention == "ordinary":
            raise BackendFailed(f"the {self.name} backend returns embeddings under the shared-text mask only")
        texts, packs = _texts_and_labels(inputs)
        return self.run_labels(texts, packs, embeddings=embeddings)

    def run_labels(self, texts: Arrays, packs: Sequence[Packed], *, embeddings: bool) -> Outputs:
        """See `Backend.run_labels`."""
        if self._forked:
            return self._source().run_labels(texts, packs, embeddings=embeddings)
        arrays = arrays_of(self._rounded(texts), packs)
        return Outputs(*self._run("one_pass" if embeddings else "one_pass_logits", arrays))

    def close(self) -> None:
        """See `Backend.close`."""
        self._opened.clear()

    @property
    def _forked(self) -> bool:
        """Whether this is a forked process, which lacks the runtime's threads: torch computes there."""
        return self._process != os.getpid()

    def _rounded(self, inputs: Arrays) -> Arrays:
        """Return a single row padded to a multiple of `STEP`: preparing a new shape costs a runtime as much as a short
        text."""
        rows, length = inputs["segments"].shape
        more = -length % STEP
        if rows > 1 or not more or length + more > (self._folder.settings.max_length or 0):
            return inputs
        fillers = {"input_ids": int(self._folder.config.get("pad_token_id") or 0), "segments": PADDING}
        return {
            name: np.pad(array, ((0, 0), (0, more)), constant_values=fillers.get(name, 0))
            for name, array in inputs.items()
        }

    def _run(self, name: GraphName, arrays: Arrays) -> list[npt.NDArray[np.float32]]:
        graph = self._graph(name)
        try:
            return graph(arrays)
        except RuntimeError as error:  # every runtime raises it, mostly for lack of memory
            first = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise BackendFailed(f"{self.name} failed on {self._folder.path.name} ({first})") from error

    def _graph(self, name: GraphName) -> Run:
        if name not in self._opened:
            file = self._file(name)
            if not is_intact(file):
                if file.name.endswith(INT8):
                    problem = "was damaged after it was exported" if file.exists() else "has not been exported"
                    raise BackendFailed(
                        f"{self._folder.path.name} {problem} to {self.name} in int8",
                        hint=f"rehead export {self._folder.path} --format {self.name} --int8 --check FILE exports it",
                    )
                with _EXPORTING:
                    if not is_intact(file):  # another thread may have been quicker
                        self._export_graph(name)
            try:
                self._opened[name] = self._open(file)
            except RuntimeError as error:
                raise BackendFailed(f"{file} is damaged", hint="delete it, and it is exported again") from error
        return self._opened[name]

    def _file(self, name: str) -> Path:
        """Return the place of a graph: of a model in int8, the main one is in int8, and others are as exported."""
        return self._home / (name + INT8 if self.precision == "int8" and name == self.main_graph else name)

    @classmethod
    def _place(cls) -> str:
        return f"{cls.name}-{version(cls.package)}-{FORMAT}"

    def _can_one_pass(self) -> bool:
        facts = self._home / FACTS
        try:
            return bool(json.loads(facts.read_text(encoding="utf-8"))["one_pass"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # not there yet, or damaged
            one_pass = self._source().one_pass
            put(facts, lambda file: write_json(file, {"one_pass": one_pass}))
            return one_pass

    def _put(self, made: Path) -> None:
        """Seal a complete graph, and move it to its place, where another process may have been quicker."""
        seal(made)
        place = self._home / made.name
        if place.exists() and not is_intact(place):
            with suppress(OSError):
                place.rename(made.with_name("damaged"))  # deleted with its folder
        with suppress(OSError):
            made.rename(place)

    def _source(self) -> TorchBackend:
        """Return the model on torch; it is released after an export."""
        from service.inference.backends.torch import TorchBackend

        if self._torch is None:
            self._torch = TorchBackend.load(self._folder, device="cpu")  # exported graphs take inputs of the processor
        return self._torch

    def _export_graph(self, name: GraphName) -> None:
        """Export a graph, compare it with torch on inputs of several shapes, and move it to its place."""
        from service.inference.backends.graphs import graph_of

        delete_abandoned(self._home)
        with (
            tempfile.TemporaryDirectory(dir=self._home, prefix=PARTIAL) as staging,
            graph_of(name, self._folder, self._source()) as graph,
        ):
            folder = Path(staging) / name
            folder.mkdir()
            self.write(graph, folder)
            self._require_equal_outputs(self._open(folder), graph)
            self._put(folder)
        self._torch = None

    def _require_equal_outputs(self, run: Run, graph: Graph) -> None:
        for inputs in graph.trials:
            try:
                outputs = run(inputs)
            except RuntimeError as error:
                raise BackendFailed(f"{self.name} cannot run {self._folder.path.name}") from error
            for output, expected in zip(outputs, graph.outputs(inputs), strict=True):
                precision = "bfloat16" if self.precision == "int8" else self.precision  # int8 is not exported here
                allowed = tolerance(precision, expected, self._folder.settings)
                if output.shape != expected.shape or not np.allclose(output, expected, rtol=0, atol=allowed):
                    raise BackendFailed(f"{self._folder.path.name} has other outputs on {self.name} than on torch")


def _texts_and_labels(inputs: Arrays) -> tuple[dict[str, npt.NDArray[np.int64]], list[Packed]]:
    """Split padded rows into the parts up to the hypothesis, and each row's hypothesis, which may be empty."""
    segments = inputs["segments"]
    of_text = (segments == LEADING) | (segments == TEXT)
    lengths, begins = (segments != PADDING).sum(axis=1), of_text.sum(axis=1)
    longest = int(begins.max())
    texts = {name: array[:, :longest] for name, array in inputs.items()}
    texts["segments"] = np.where(of_text[:, :longest], segments[:, :longest], PADDING)
    types = inputs.get("token_type_ids", np.zeros_like(segments))
    packs = []
    for row, (begin, end) in enumerate(zip(begins, lengths, strict=True)):
        sequence = Encoded(inputs["input_ids"][row], types[row], segments[row], False)
        packs.append(packed([sequence.part(begin, end)], sequence.part(0, 1)))
    return texts, packs
