"""Training for the page: in a child process, which goes on when a tab is closed and ends when the server does.

Knows: a job's folder (table, config, events), that one runs at a time, how it is stopped.
Does not know: the page, what training does.

`python -m service.server.training_jobs train FOLDER` is the child; `look CONFIG` and `choices` answer questions that
need the training side, so that the server itself stays light.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config import loading
from finetune.config.training import TrainConfig
from finetune.core import events
from finetune.core.allocator import keep_freed_memory
from finetune.core.errors import FinetuneError
from finetune.core.file_lock import is_held
from finetune.core.model_folder import find, served
from service.errors import BadRequest, Overloaded

FOLDER = ".training"
"""Where jobs lie, in the folder of models; a name that begins with a dot is no model's."""

CONFIG, EVENTS, OUTPUT, TABLE, LABEL_NAMES_SHOWN = "config.yaml", "events.jsonl", "output.txt", "table", 20
PREFERRED_BASE = "topics"
RUN = "run.json"
"""What a run's checkpoints belong to, in its work folder (finetune/training/run_identity.py)."""

STOPPED_WITHIN_S = 20.0
"""Seconds for a run's last update and its checkpoint, once it is stopped."""

LOOK_S = 120.0
LOOK_BYTES, TRAIN_BYTES = 2**30, 2**34
"""Bytes a file may have that a child writes: a small table can hold very much."""

MOST_KEPT = 20
"""Runs whose folders are kept; the oldest goes when another is begun."""

NICE = 5
"""How far training gives way to the server's answers."""

State = Literal["running", "finished", "failed", "stopped"]
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Started,
        events.Step,
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
    """What is known of a training run: `events` in their order, `config` as its YAML file holds it."""

    name: str
    state: State
    events: tuple[events.Event, ...]
    config: Mapping[str, Any]


class Jobs:
    """The training runs of a server, by the name of the model that each makes; safe to use from many threads.

    Args:
        models: the folder that models are written to.
        bases: what may be trained from; every served model where none is named.

    Raises:
        CheckpointError: a base that leads nowhere.
    """

    def __init__(self, models: Path, bases: tuple[str, ...] = ()) -> None:
        for base in bases:
            find(base, models)
        self._bases, self._models, self._folder = bases, models, models / FOLDER
        self._lock, self._choosing, self._looking = threading.Lock(), threading.Lock(), threading.Lock()
        self._asked: set[subprocess.Popen[bytes]] = set()
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None
        self._known: dict[str, dict[str, str]] = {}

    @property
    def bases(self) -> tuple[str, ...]:
        """What may be trained from, the one that most will want first."""
        return self._bases or tuple(sorted(served(self._models), key=lambda name: (name != PREFERRED_BASE, name)))

    def choices(self) -> dict[str, dict[str, str]]:
        """Names and sentences of every table of choices: losses, heads and so on."""
        with self._choosing:
            if not self._known:
                self._known = self._ask("choices")
            return self._known

    def config(self, name: str | None, settings: Mapping[str, Any], table: Path) -> TrainConfig:
        """The configuration of a run that would make the model `name` of a table.

        Args:
            name: None where the run is only looked at.
            settings: by dotted key, as `rehead finetune --set` takes them.

        Raises:
            BadRequest: a name that is none or is taken, or a base that is not offered.
            ConfigError: a setting that cannot be.
        """
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name, re.ASCII):
            raise BadRequest("a model's name has letters, digits, - and _, up to 64 of them")
        if name in served(self._models):
            raise BadRequest(f"there is a model {name!r} already: give this one another name")
        if (base := settings.get("base")) not in self.bases:
            raise BadRequest(f"this server does not train from {base!r}: it offers {', '.join(self.bases)}")
        content = loading.laid({}, settings)
        content = loading.laid(content, {"out": str(self._models / (name or FOLDER)), "models_dir": str(self._models)})
        return loading.build(loading.laid(content, {"data.train": str(table)}))

    def look(self, config: TrainConfig) -> dict[str, Any]:
        """What is known of a run before it trains: rows by label, what was found in the data, updates.

        Raises:
            BadRequest: data or settings that cannot be used; says why.
            Overloaded: another table is being looked at.
        """
        if not self._looking.acquire(blocking=False):
            raise Overloaded("another table is being looked at", hint="try again in a moment")
        try:
            return self._ask("look", loading.dump(config))
        finally:
            self._looking.release()

    def start(self, name: str, config: TrainConfig) -> None:
        """Begin a run; its table is copied first.

        Raises:
            Overloaded: another one runs.
        """
        with self._lock:
            if self._running is not None and self._running[1].poll() is None:
                raise Overloaded(f"{self._running[0]} is being trained: one runs at a time", hint="wait, or stop it")
            if is_held(Path(config.out)):
                raise Overloaded(f"another run is writing {config.out}", hint="wait until it ends, or stop it")
            folder = self._folder / name
            source = Path(config.data.train[0].path)
            table = (folder / TABLE).with_suffix(source.suffix)
            again = self._same_as_before(folder, config, source)
            folder.mkdir(parents=True, exist_ok=True)
            if not again:
                shutil.rmtree(self._work(name), ignore_errors=True)  # its checkpoints are of something else
                shutil.copyfile(source, table)
            self._forget_oldest(but=name)
            data = config.data.model_copy(
                update={"train": (config.data.train[0].model_copy(update={"path": str(table)}),)}
            )
            config = config.model_copy(update={"data": data, "resume": again})
            (folder / CONFIG).write_text(loading.dump(config), encoding="utf-8")
            (folder / EVENTS).write_text("", encoding="utf-8")
            with (folder / OUTPUT).open("wb") as output:
                child = subprocess.Popen(
                    [*_command("train"), str(folder)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            self._running = name, child

    def stop(self, name: str) -> None:
        """End a run; the same one, started again, goes on from its last checkpoint."""
        with self._lock:
            if self._running is None or self._running[0] != name:
                return
            child = self._running[1]
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def close(self) -> None:
        """End whatever runs."""
        for child in list(self._asked):
            child.kill()
        if self._running is not None:
            self.stop(self._running[0])

    def latest(self) -> Job | None:
        """The run that was begun last."""
        begun = {file.parent.name: file.stat().st_mtime_ns for file in self._folder.glob(f"*/{CONFIG}")}
        return self.job(max(begun, key=lambda name: begun[name])) if begun else None

    def job(self, name: str) -> Job | None:
        """A run by its model's name."""
        folder = self._folder / name
        try:
            lines = (folder / EVENTS).read_text(encoding="utf-8").split("\n")[:-1]  # the last may be half written
            config = loading.read_yaml(folder / CONFIG)
        except (OSError, FinetuneError):
            return None
        found = tuple(map(_event, lines))
        running = self._running
        if running is not None and running[0] == name and running[1].poll() is None:
            return Job(name, "running", found, config)
        last = found[-1] if found else None
        if isinstance(last, events.Finished):
            return Job(name, "finished", found, config)
        return Job(name, "failed" if isinstance(last, events.Failed) else "stopped", found, config)

    def _same_as_before(self, folder: Path, config: TrainConfig, source: Path) -> bool:
        """Whether this is a run that was stopped, and can go on."""
        try:
            before = loading.load(folder / CONFIG)
        except FinetuneError:
            return False
        table = Path(before.data.train[0].path)
        kept = {"data", "resume"}
        return (
            before.model_dump(exclude=kept) == config.model_dump(exclude=kept)
            and before.data.model_dump(exclude={"train"}) == config.data.model_dump(exclude={"train"})
            and table.is_file()
            and table.suffix == source.suffix
            and (self._work(folder.name) / RUN).is_file()
            and table.read_bytes() == source.read_bytes()
        )

    def _work(self, name: str) -> Path:
        """Where a run has its checkpoints (finetune/run.py)."""
        return self._models / f".{name}.run"

    def _forget_oldest(self, *, but: str) -> None:
        """Delete the folders of runs that were begun long ago; their models stay."""
        begun = sorted(self._folder.glob(f"*/{CONFIG}"), key=lambda file: file.stat().st_mtime_ns)
        for file in [one for one in begun if one.parent.name != but][: -(MOST_KEPT - 1) or None]:
            if is_held(self._models / file.parent.name):
                continue
            shutil.rmtree(self._work(file.parent.name), ignore_errors=True)
            shutil.rmtree(file.parent, ignore_errors=True)

    def _ask(self, *words: str) -> dict[str, Any]:
        """What a child says, which takes the last word from its standard input."""
        given = words[1].encode() if len(words) > 1 else b""
        pipe = subprocess.PIPE
        with subprocess.Popen(_command(words[0]), stdin=pipe, stdout=pipe, stderr=pipe) as child:
            self._asked.add(child)
            try:
                said, problems = child.communicate(given, LOOK_S)
            except subprocess.TimeoutExpired as error:
                child.kill()
                raise BadRequest(f"looking at this table took more than {LOOK_S:.0f} s: use rehead finetune") from error
            finally:
                self._asked.discard(child)
        try:
            found: dict[str, Any] = json.loads(said.splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise RuntimeError(f"the training side left with {child.returncode}: {problems[-2000:]!r}") from error
        if "problem" in found:
            raise BadRequest(str(found["problem"]))
        return found


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "service.server.training_jobs", *words]


def _event(line: str) -> events.Event:
    content = json.loads(line)
    found: events.Event = KINDS[content.pop("event")](**content)
    return found


# the child


def _train(folder: Path) -> int:
    """Train what the folder's config says, and write down each event."""
    parent = os.getppid()
    _bounded(TRAIN_BYTES)
    keep_freed_memory()

    def terminate(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    stopped: list[int] = []

    def stop_once() -> None:
        """Stop as the server's Stop does; a second signal would not wait for the checkpoint."""
        if not stopped:
            stopped.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    with (folder / EVENTS).open("a", encoding="utf-8", buffering=1) as stream:

        def note(event: events.Event) -> None:
            stream.write(json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n")
            if os.getppid() != parent:
                stop_once()  # the server is gone

        try:
            from finetune.prepare import quiet
            from finetune.run import train

            quiet()
            train(loading.load(folder / CONFIG), on_event=note)
        except FinetuneError as error:
            note(events.Failed(str(error)))
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            note(events.Failed(f"the run failed ({type(error).__name__}); {folder / OUTPUT} says more"))
            raise
    return 0


def _bounded(most: int) -> None:
    """Give way to the server, and write no file of more bytes than these."""
    with suppress(ImportError, OSError, ValueError, AttributeError):  # none of it on Windows
        import resource

        os.nice(NICE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _look() -> dict[str, Any]:
    """What a configuration's data is like, and what training on it would be."""
    import yaml

    from finetune.prepare import prepare, quiet

    _bounded(LOOK_BYTES)
    quiet()
    content = yaml.safe_load(sys.stdin.read())
    prepared = prepare(loading.build(content))
    splits = prepared.splits
    values = splits.train.values
    several = [name for value in values if isinstance(value, list | tuple) for name in value]
    counts = Counter(several or [value for value in values if isinstance(value, str)])
    return {
        "task": splits.labels.task,
        "labels": dict(counts.most_common(LABEL_NAMES_SHOWN)),
        "all_labels": len(counts),
        "rows": len(values),
        "validation_rows": len(splits.validation),
        "counts": splits.counts,
        "said": splits.notes,
        "fit": str(prepared.tokenizer_report),
        "near": str(prepared.near_duplicates),
        "warnings": prepared.warnings,
        "updates": prepared.batch_plan.updates,
        "lr": prepared.config.optim.lr,
    }


def _choices() -> dict[str, dict[str, str]]:
    from finetune.config.choices import TABLES, sentences

    return {name: sentences(name) for name in TABLES}


def main() -> int:
    """The child: a command, and what it works on."""
    if sys.argv[1] == "train":
        return _train(Path(sys.argv[2]))
    try:
        found: dict[str, Any] = _look() if sys.argv[1] == "look" else _choices()
    except FinetuneError as error:
        found = {"problem": str(error)}
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        found = {"problem": f"the table unpacks to more than {LOOK_BYTES} bytes"}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
