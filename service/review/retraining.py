"""Retraining in the background: after every n answers a child process trains, scores the rows again, and publishes.

The work folder `.NAME.review` beside the answers holds what the child reads and writes:

| file | what it holds |
|---|---|
| `job.json` | settings of the child |
| `texts-*.jsonl` | the texts of the review, in the order of the scores; the name follows from them |
| `train.jsonl` | the rows to train on, without any held-out one |
| `rounds.jsonl` | one line a model: its answers, and its predictions of the rows that measure |
| `scores.npz` | the scores of the latest model |
| `problem.txt`, `output.txt` | why the last retraining failed, and what it printed |
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core import model_folder
from finetune.core.errors import FinetuneError
from finetune.core.file_lock import is_held
from service.errors import BadRequest, ServiceError
from service.review.measures import Round
from service.review.session import ReviewSession, ScoredRows
from service.review.table import ReviewTable, hash_of
from service.server import tied_process

JOB, TRAIN, ROUNDS, SCORES = "job.json", "train.jsonl", "rounds.jsonl", "scores.npz"
PROBLEM, OUTPUT, LOCK = "problem.txt", "output.txt", "training"
FEWEST = 10
"""Answers that a retraining needs."""


@dataclass(frozen=True)
class RetrainingPlan:
    """The settings of retraining.

    Attributes:
        base: folder of the given model, which every retraining starts from.
        identity: of that model; what is stored about another one is not used.
        out: folder to publish to; None keeps the model in the work folder.
        every: answers between two retrainings, 0 for none.
        settings: further training settings by dotted key, as `rehead finetune --set` takes them.
    """

    base: Path
    identity: str
    out: Path | None
    every: int = 25
    models_dir: str = "models"
    device: str = "auto"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


class Retraining:
    """The retrainings of one review; thread-safe.

    Attributes:
        problem: why the last retraining failed; empty if it did not.
    """

    def __init__(self, session: ReviewSession, work: Path, plan: RetrainingPlan) -> None:
        self._session, self._work, self._plan = session, work, plan
        self.problem = ""
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._tried = 0
        self._rescoring: threading.Thread | None = None
        work.mkdir(parents=True, exist_ok=True)
        self._texts = _write_texts(work, session.table)
        self._rounds: tuple[int, list[Round]] = (-1, [])
        if not self.rounds():
            append_round(work, plan.identity, 0, session.scored.model, session.predictions())
        self._loaded = self.rounds()[-1].answers

    @property
    def model(self) -> Path:
        """The folder of the latest retrained model inside the work folder."""
        return self._work / "model"

    @property
    def published(self) -> Path:
        """The folder that a retrained model is published to."""
        return self.model if self._plan.out is None else self._plan.out

    @property
    def is_running(self) -> bool:
        """Whether a model is being trained, here or in another process."""
        child = self._child
        return (child is not None and child.poll() is None) or is_held(self._work / LOCK)

    def rounds(self) -> list[Round]:
        """Return the given model and the retrained ones, in order."""
        file = self._work / ROUNDS
        size = file.stat().st_size if file.is_file() else 0
        if size != self._rounds[0]:
            lines = (line for line in _lines(file) if line["base"] == self._plan.identity)
            self._rounds = size, [Round(int(line["answers"]), line["predictions"]) for line in lines]
        return self._rounds[1]

    def poll(self) -> None:
        """Start a retraining that is due, and take the scores of one that has finished; returns at once."""
        with self._lock:
            self._note_failure()
            rounds = self.rounds()
            trained = rounds[-1].answers if rounds else 0
            if trained and trained != self._loaded and (self._rescoring is None or not self._rescoring.is_alive()):
                self._loaded = trained
                self._rescoring = threading.Thread(target=self._rescore, daemon=True)
                self._rescoring.start()
            rows = self._session.training_rows()
            due = len(rows) >= max(FEWEST, max(trained, self._tried) + self._plan.every)
            if self._plan.every and due and not self.is_running:
                self._start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what is running has ended and its scores are taken."""
        if self._child is not None:
            self._child.wait(timeout_s)
        self.poll()
        if self._rescoring is not None:
            self._rescoring.join(timeout_s)

    def close(self) -> None:
        """End a retraining that is running; the answers stay, and the next one has them all."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _start(self) -> None:
        session, plan = self._session, self._plan
        rows, labels = session.training_rows(), list(session.labels)
        with (self._work / TRAIN).open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows)
        job = {
            "base": str(plan.base),
            "identity": plan.identity,
            "texts": self._texts.name,
            "out": None if plan.out is None else str(plan.out),
            "models_dir": plan.models_dir,
            "device": plan.device,
            "seed": plan.seed,
            "settings": dict(plan.settings),
            "labels": labels,
            "columns": list(session.table.columns),
            "held_out": session.held_out.tolist(),
        }
        (self._work / JOB).write_text(json.dumps(job), encoding="utf-8")
        (self._work / PROBLEM).unlink(missing_ok=True)
        self._tried = len(rows)
        with (self._work / OUTPUT).open("wb") as output:
            self._child = tied_process.start(
                ["-m", "service.review.retraining_process", str(self._work)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _note_failure(self) -> None:
        child = self._child
        if child is None or child.poll() is None:
            return
        self._child = None
        self.problem = ""
        if child.returncode:
            file = self._work / PROBLEM
            reason = file.read_text(encoding="utf-8") if file.is_file() else f"see {self._work / OUTPUT}"
            self.problem = f"retraining failed: {reason}"

    def _rescore(self) -> None:
        try:
            scored = stored_scores(self._work, self._plan.identity, self._session.table.hashes)
            if scored is not None:
                self._session.rescore(scored)
        except (FinetuneError, ServiceError, OSError, ValueError) as error:
            self.problem = f"the rows could not be ordered by the retrained model: {error}"


def _write_texts(work: Path, table: ReviewTable) -> Path:
    """Write the texts of a review, and return the file; a process that trains on other texts keeps its own."""
    file = work / f"texts-{hash_of(''.join(table.hashes))[:16]}.jsonl"
    if not file.is_file():
        partial = file.with_suffix(".partial")
        partial.write_text("".join(json.dumps(text) + "\n" for text in table.texts), encoding="utf-8")
        partial.replace(file)
    return file


def work_folder(answers: Path) -> Path:
    """Return the work folder of an answers file."""
    return answers.with_name(f".{answers.stem}.review")


def latest_rounds(work: Path) -> list[Round]:
    """Return the models of the review that was under way last; none where there is no work folder."""
    lines = _lines(work / ROUNDS)
    return [Round(int(line["answers"]), line["predictions"]) for line in lines if line["base"] == lines[-1]["base"]]


def check_out(out: Path, base: Path, work: Path) -> None:
    """Raise BadRequest where publishing to `out` would overwrite the given model, or what no retraining has made."""
    if out.resolve() == base.resolve():
        raise BadRequest(f"{out} is the model under review, which is never overwritten: name another folder with --out")
    if any(line.get("out") == str(out) for line in _lines(work / ROUNDS)):
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadRequest(f"{out} exists already, and no retraining of this review made it: name another with --out")


def copy_model(folder: Path, out: Path) -> None:
    """Publish a copy of a model folder; a previous one at `out` is replaced at the end."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, partial)
    model_folder.publish(partial, out)


def append_round(
    work: Path, base: str, answers: int, model: str, predictions: Mapping[str, str], out: str | None = None
) -> None:
    """Append a line to rounds.jsonl."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"time": now, "base": base, "answers": answers, "model": model, "out": out}
    line |= {"predictions": dict(predictions)}
    with (work / ROUNDS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def store_scores(work: Path, base: str, hashes: list[str], scored: ScoredRows) -> None:
    """Replace scores.npz."""
    partial = work / f"{SCORES}.partial.npz"
    np.savez(
        partial,
        base=np.array(base),
        hashes=np.array(hashes),
        model=np.array(scored.model),
        names=np.array(scored.names),
        scores=np.asarray(scored.scores, dtype=np.float32),
        predicted=np.array(scored.predicted),
    )
    partial.replace(work / SCORES)


def stored_scores(work: Path, base: str, hashes: list[str]) -> ScoredRows | None:
    """Return what scores.npz holds, None where it is about another model or other rows."""
    file = work / SCORES
    if not file.is_file():
        return None
    with np.load(file) as content:
        if str(content["base"]) != base or content["hashes"].tolist() != hashes:
            return None
        return ScoredRows(
            str(content["model"]),
            tuple(map(str, content["names"])),
            content["scores"].astype(np.float64),
            [str(label) for label in content["predicted"]],
        )


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON Lines file; none where there is no file."""
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # half a line of a process that was killed
    return lines
