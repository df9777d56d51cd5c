"""Runs of the page, trainings and distillations: each in a child process, which survives a closed tab and ends with
the server.

A run's folder holds its table, its configuration and its events; one run trains at a time. The children are
`service.server.training_process`, so that the server itself never imports torch for training.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.errors import FinetuneError
from finetune.core.model_folder import find, read, served
from service.errors import BadRequest, Overloaded
from service.labeling import config as distillation
from service.labeling.config import DistillConfig
from service.server import run_configs, tied_process
from service.server.run_configs import Kind, RunConfig

FOLDER = ".training"
"""Folder of runs inside the folder of models; a leading dot is not allowed in a model's name."""

EVENTS, OUTPUT = "events.jsonl", "output.txt"
PREFERRED_BASE = PREFERRED_TEACHER = "topics"
STOP_TIMEOUT_S = 20.0
"""Seconds that a stopped run has for its last update and its checkpoint."""

REPORT_TIMEOUT_S, RANKING_TIMEOUT_S = 120.0, 300.0
REPORT_KEPT_S = 60.0
MAX_RUNS = 20
"""Runs whose folders are kept; starting another one deletes the oldest."""

State = Literal["running", "finished", "failed", "stopped"]
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Started,
        events.Step,
        events.Processed,
        events.Evaluated,
        events.GradientsRecorded,
        events.Saved,
        events.Info,
        events.Warned,
        events.Failed,
        events.Finished,
    )
}


@dataclass(frozen=True)
class Job:
    """A run: `events` in order, `config` as its YAML file holds it."""

    name: str
    state: State
    events: tuple[events.Event, ...]
    config: Mapping[str, Any]
    kind: Kind = "training"

    @property
    def table(self) -> Path:
        """Return the run's copy of its table."""
        return Path(self.config["texts"] if self.kind == "distillation" else self.config["data"]["train"][0]["path"])


class Jobs:
    """The runs of a server, by the name of the model they make; thread-safe.

    Attributes:
        device: of the kind that runs train on.

    Args:
        models: the folder that models are written to.
        bases: base models that may be used; every served model by default.
        device: of the server's models, on which runs train too.

    Raises:
        CheckpointError: a base model does not exist.
    """

    def __init__(self, models: Path, bases: tuple[str, ...] = (), device: str = "auto") -> None:
        for base in bases:
            find(base, models)
        self._bases, self._models, self._folder = bases, models, models / FOLDER
        self.device = device.partition(":")[0]  # training takes the first card
        self._lock, self._choices_lock, self._report_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._report: tuple[tuple[str, str, list[tuple[int, int]]], dict[str, Any], float] | None = None
        self._queries: set[subprocess.Popen[bytes]] = set()
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None
        self._choices: dict[str, dict[str, str]] = {}

    @property
    def bases(self) -> tuple[str, ...]:
        """Return the base models that may be used, the most useful one first."""
        return self._bases or tuple(sorted(served(self._models), key=lambda name: (name != PREFERRED_BASE, name)))

    @property
    def teachers(self) -> tuple[str, ...]:
        """Return the served zero-shot models, the default one first."""
        names = [name for name, path in served(self._models).items() if _is_zero_shot(path)]
        return tuple(sorted(names, key=lambda name: (name != PREFERRED_TEACHER, name)))

    def choices(self) -> dict[str, dict[str, str]]:
        """Return names and descriptions of every table of choices: losses, heads and so on."""
        with self._choices_lock:
            if not self._choices:
                self._choices = self._query("choices")
            return self._choices

    def config(self, name: str | None, settings: Mapping[str, Any], table: Path) -> TrainConfig:
        """Return the configuration of a run that makes the model `name` of a table.

        Args:
            name: None for a data report.
            settings: by dotted key, as in `rehead finetune --set`.

        Raises:
            BadRequest: the name is invalid or taken, or the base model is not allowed.
            ConfigError: a setting is invalid.
        """
        self._check_name(name)
        if (base := settings.get("base")) not in self.bases:
            raise BadRequest(f"base model {base!r} is not allowed on this server: use one of {', '.join(self.bases)}")
        content = loading.laid({}, settings)
        content = loading.laid(content, {"out": str(self._models / (name or FOLDER)), "models_dir": str(self._models)})
        content.setdefault("device", self.device)
        return loading.build(loading.laid(content, {"data.train": str(table)}))

    def distillation(self, name: str | None, settings: Mapping[str, Any], table: Path) -> DistillConfig:
        """Return the configuration of a run that makes the model `name` of a table without labels.

        Args:
            name: None for a data report.
            settings: those of `DistillConfig`; `teacher` is the name of a served zero-shot model.

        Raises:
            BadRequest: the name is invalid or taken, or the teacher is not a served zero-shot model.
            ConfigError: a setting is invalid.
        """
        self._check_name(name)
        teacher, teachers = settings.get("teacher"), self.teachers
        if teacher not in teachers:
            raise BadRequest(
                f"teacher {teacher!r} is no zero-shot model of this server: use one of {', '.join(teachers)}"
            )
        content = {key: value for key, value in settings.items() if value is not None}
        content |= {"teacher": {"name": "model", "model": teacher}, "device": self.device}
        content |= {"base": teacher if teacher in self.bases else self.bases[0], "models_dir": str(self._models)}
        return distillation.build(content | {"texts": str(table), "out": str(self._models / (name or FOLDER))})

    def _check_name(self, name: str | None) -> None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
            raise BadRequest("a model's name consists of up to 64 letters, digits, - and _")
        if name in served(self._models):
            raise BadRequest(f"there is a model {name!r} already: choose another name")

    def data_report(self, config: RunConfig) -> dict[str, Any]:
        """Return what is known of a run before it trains: rows by label, dropped rows, warnings, updates; of a
        distillation its rows, by what happens to them, and some of its texts. The last report is kept for
        `REPORT_KEPT_S`: the events of a page ask several times.

        Raises:
            BadRequest: data or settings that cannot be used; says why.
            Overloaded: another data report is being made.
        """
        if not self._report_lock.acquire(blocking=False):
            raise Overloaded("another data report is being made", hint="try again in a moment")
        try:
            query = "report" if isinstance(config, TrainConfig) else "corpus"
            key = query, run_configs.dump(config), run_configs.table_versions(config)
            if self._report is None or self._report[0] != key or time.monotonic() - self._report[2] > REPORT_KEPT_S:
                self._report = key, self._query(query, key[1]), time.monotonic()
            return self._report[1]
        finally:
            self._report_lock.release()

    def ranking(self, config: TrainConfig) -> dict[str, Any]:
        """Return the bases that may be used, ranked for the table of a run, as `rehead.rank_bases` does.

        Raises:
            BadRequest: data that cannot be used; says why.
            Overloaded: another table is being read.
        """
        if not self._report_lock.acquire(blocking=False):
            raise Overloaded("another table is being read", hint="try again in a moment")
        try:
            argument = json.dumps({"config": loading.dump(config), "bases": list(self.bases)})
            return self._query("ranking", argument, RANKING_TIMEOUT_S)
        finally:
            self._report_lock.release()

    def start(self, name: str, config: RunConfig) -> None:
        """Start a run; its table is copied first.

        Raises:
            Overloaded: another run is training, or writes the same model.
        """
        with self._lock:
            if self._running is not None and self._running[1].poll() is None:
                raise Overloaded(
                    f"{self._running[0]} is being trained, and one run trains at a time", hint="wait, or stop it"
                )
            if run_configs.is_written(Path(config.out)):
                raise Overloaded(f"another run is writing {name}", hint="wait until it ends, or stop it")
            folder = self._folder / name
            resume = run_configs.can_resume(folder, config)
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(config, TrainConfig):
                config = config.model_copy(update={"resume": resume})
                if not resume:
                    shutil.rmtree(run_configs.checkpoints_of(Path(config.out)), ignore_errors=True)  # of another run
            self._delete_oldest(keep=name)
            run_configs.write(folder, run_configs.with_copies(config, folder))
            (folder / EVENTS).write_text("", encoding="utf-8")
            with (folder / OUTPUT).open("wb") as output:
                child = tied_process.start(
                    [*_command("run"), str(folder)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            self._running = name, child

    def stop(self, name: str) -> None:
        """Stop a run; the same run, started again, continues from its last checkpoint or its scores."""
        with self._lock:
            if self._running is None or self._running[0] != name:
                return
            child = self._running[1]
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def close(self) -> None:
        """Stop everything that runs."""
        for child in list(self._queries):
            child.kill()
        if self._running is not None:
            self.stop(self._running[0])

    def latest(self, kind: Kind = "training") -> Job | None:
        """Return the run of a kind that was started last."""
        configs = list(self._folder.glob(f"*/{run_configs.FILES[kind]}"))
        return self.job(max(configs, key=_modified).parent.name) if configs else None

    def job(self, name: str) -> Job | None:
        """Return a run by its model's name, or None."""
        folder = self._folder / name
        try:
            lines = (folder / EVENTS).read_text(encoding="utf-8").split("\n")[:-1]  # the last line may be incomplete
            kind, config = run_configs.read(folder)
        except (OSError, FinetuneError):
            return None
        history = tuple(map(_event, lines))
        running = self._running
        if running is not None and running[0] == name and running[1].poll() is None:
            return Job(name, "running", history, config, kind)
        last = history[-1] if history else None
        if isinstance(last, events.Finished):
            return Job(name, "finished", history, config, kind)
        return Job(name, "failed" if isinstance(last, events.Failed) else "stopped", history, config, kind)

    def _delete_oldest(self, *, keep: str) -> None:
        """Delete the folders of the oldest runs; their models stay."""
        configs = [file for name in run_configs.FILES.values() for file in self._folder.glob(f"*/{name}")]
        others = [file.parent for file in sorted(configs, key=_modified) if file.parent.name != keep]
        for folder in others[: -(MAX_RUNS - 1) or None]:
            out = self._models / folder.name
            if run_configs.is_written(out):
                continue
            run_configs.delete_work(out)
            shutil.rmtree(folder, ignore_errors=True)

    def _query(self, name: str, argument: str = "", seconds: float = REPORT_TIMEOUT_S) -> dict[str, Any]:
        """Return the JSON that a child prints, which reads the argument from its standard input."""
        pipe = subprocess.PIPE
        with tied_process.start(_command(name), stdin=pipe, stdout=pipe, stderr=pipe) as child:
            self._queries.add(child)
            try:
                output, problems = child.communicate(argument.encode(), seconds)
            except subprocess.TimeoutExpired as error:
                child.kill()
                limit = f"{seconds:.0f} s"
                raise BadRequest(f"reading this table took more than {limit}: use the command line") from error
            finally:
                self._queries.discard(child)
        try:
            content: dict[str, Any] = json.loads(output.splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise RuntimeError(f"the training process exited with {child.returncode}: {problems[-2000:]!r}") from error
        if "problem" in content:
            raise BadRequest(str(content["problem"]))
        return content


def _modified(file: Path) -> int:
    return file.stat().st_mtime_ns


def _is_zero_shot(path: Path) -> bool:
    try:
        return read(path).is_zero_shot
    except FinetuneError:
        return False  # reported when the server started


def _command(name: str) -> list[str]:
    return ["-m", "service.server.training_process", name]


def _event(line: str) -> events.Event:
    content = json.loads(line)
    event: events.Event = KINDS[content.pop("event")](**content)
    return event
