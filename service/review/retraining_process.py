"""The child process of `retraining`: `python -m service.review.retraining_process WORK` trains one model.

It is trained on the answers, and on the given model's scores of other rows, corrected by the answers, so that it keeps
what it knew where no answer speaks against it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.config import loading
from finetune.config.optim import HEAD_LR, faster_head_lr
from finetune.config.training import TrainConfig
from finetune.core import file_lock, model_folder
from finetune.core.errors import ReheadError
from finetune.core.scores import Floats
from service.review.corrected_scores import corrected_scores
from service.review.retraining import JOB, LOCK, PROBLEM, TRAIN, append_round, copy_model, store_scores
from service.review.scoring import embedder
from service.review.session import ScoredRows
from service.review.table import hash_of

NICE = 5
"""Niceness: answers of a server, and the reviewer's terminal, go first."""

REHEARSED_PER_ANSWER, FEWEST_REHEARSED, MOST_REHEARSED = 4, 200, 2000
"""Other rows, with corrected scores as soft labels, for each answer, at least, and at most."""

BATCH, UPDATES, FEWEST_EPOCHS, MOST_EPOCHS = 16, 250, 2, 10
TABLE = "train.parquet"
DEFAULTS: dict[str, Any] = {
    "tfidf_baseline": False,
    "calibration": "none",
    "plots": False,
    "error_rows": 0,
    "loss": {"name": "kullback_leibler_divergence"},
    "optim.batch_size": BATCH,
}
"""Settings in place of those of `rehead finetune`: most validation labels here are scores."""


def retrain(work: Path) -> None:
    """Train, score every row, and publish.

    Raises:
        ReheadError: the answers or the base cannot be trained on.
    """
    from finetune.run import train
    from service.inference.model_store import resolve

    job = json.loads((work / JOB).read_text(encoding="utf-8"))
    texts = [json.loads(line) for line in (work / job["texts"]).read_text(encoding="utf-8").split("\n")[:-1]]
    answers = [json.loads(line) for line in (work / TRAIN).read_text(encoding="utf-8").split("\n")[:-1]]
    name = Path(job["out"]).name if job["out"] is not None else "reviewed"
    out = work / "run" / name
    shutil.rmtree(out.parent, ignore_errors=True)
    given = scored_rows(Path(job["base"]), texts, job["device"])
    rows = write_table(work / TABLE, texts, answers, job, given)
    train(train_config(work, out, job, rows), on_event=lambda event: None)
    if len(job["columns"]) > 1:
        settings = replace(model_folder.read(out).settings, text_columns=tuple(job["columns"]))
        model_folder.write_settings(out, settings)
        model_folder.seal(out)
    scored = scored_rows(resolve(str(out)).path, texts, job["device"], name)
    hashes = [hash_of(text) for text in texts]
    predictions = {hashes[place]: scored.predicted[place] for place in job["held_out"]}
    store_scores(work, job["identity"], hashes, scored)
    model_folder.publish(out, work / "model")
    shutil.rmtree(out.parent, ignore_errors=True)
    if job["out"] is not None:
        copy_model(work / "model", Path(job["out"]))
    append_round(work, job["identity"], len(answers), name, predictions, job["out"])


def scored_rows(folder: Path, texts: list[str], device: str, name: str | None = None) -> ScoredRows:
    """Return the scores of a model for texts."""
    from service.inference.engine import Engine
    from service.review.scoring import score
    from service.settings import RuntimeSettings

    engine = Engine.load(model_folder.read(folder), RuntimeSettings.from_environment(device=device))
    try:
        return score(engine, name or folder.name, texts)
    finally:
        engine.close()


def write_table(
    file: Path, texts: list[str], answers: list[dict[str, str]], job: dict[str, Any], given: ScoredRows
) -> int:
    """Write answers and rehearsed rows, with a column of soft labels for each label, and return their number."""
    from finetune.core.tables.files import write_table as write

    labels = job["labels"]
    text_column, weight_column = columns_beside(labels)
    rehearsed, soft = rehearsal(texts, answers, job, given)
    weight = max(1.0, len(rehearsed) / len(answers))
    rows: list[dict[str, Any]] = [
        {text_column: answer["text"], weight_column: weight}
        | {label: float(label == answer["label"]) for label in labels}
        for answer in answers
    ]
    rows += [
        {text_column: texts[place], weight_column: 1.0} | dict(zip(labels, scores, strict=True))
        for place, scores in zip(rehearsed.tolist(), soft.tolist(), strict=True)
    ]
    write(file, rows)
    return len(rows)


def rehearsal(
    texts: list[str], answers: list[dict[str, str]], job: dict[str, Any], given: ScoredRows
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the places `[R]` of rows without an answer, none of them held out, and their corrected scores `[R, L]`."""
    known, measuring = {answer["text"] for answer in answers}, set(job["held_out"])
    free = [place for place, text in enumerate(texts) if place not in measuring and text not in known]
    wanted = min(MOST_REHEARSED, max(FEWEST_REHEARSED, REHEARSED_PER_ANSWER * len(answers)))
    drawn = np.random.default_rng(job["seed"]).permutation(np.array(free, dtype=np.int64))[:wanted]

    labels = job["labels"]
    place_of = {text: place for place, text in enumerate(texts)}
    here = [answer for answer in answers if answer["text"] in place_of]  # others' tables may have grown since
    answered = np.array([place_of[answer["text"]] for answer in here], dtype=np.int64)
    targets = np.array([labels.index(answer["label"]) for answer in here], dtype=np.int64)
    places = np.concatenate([answered, drawn])
    scores = np.zeros((len(places), len(labels)))
    scores[:, [labels.index(name) for name in given.names]] = given.scores[places]
    vectors = embedder(Path(job["base"]), texts, job["device"])(places)
    corrected = corrected_scores(scores, vectors, np.arange(len(here)), targets, job["seed"])
    return drawn, corrected[len(here) :]


def columns_beside(labels: list[str]) -> tuple[str, str]:
    """Return names for the columns of texts and weights that no label has."""
    text, weight = "text", "weight"
    while text in labels:
        text += "_"
    while weight in labels:
        weight += "_"
    return text, weight


def train_config(work: Path, out: Path, job: dict[str, Any], rows: int) -> TrainConfig:
    """Return the settings of the training.

    Raises:
        ConfigError: a setting of the review is unknown or invalid.
    """
    labels = job["labels"]
    text, weight = columns_beside(labels)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(UPDATES * BATCH / rows)))
    own: dict[str, Any] = {
        "base": job["base"],
        "out": str(out),
        "models_dir": job["models_dir"],
        "device": job["device"].partition(":")[0],
        "seed": job["seed"],
        **DEFAULTS,
        "optim.epochs": float(epochs),
        "data.train": [{"path": str(work / TABLE)}],
        "data.text": text,
        "data.weight": weight,
        "data.soft_label_columns": labels,
        "data.task": "binary" if len(labels) == 2 else "multiclass",
    }
    config = loading.build(loading.laid(loading.laid({}, own), job["settings"]), "the settings of retraining")
    if config.optim.head_lr is not None:
        return config
    lr = config.optim.lr
    # at the rate of the body the kept head does not give up labels that it was sure of in so few updates
    rate = HEAD_LR if lr is None else faster_head_lr(lr)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"head_lr": rate})})


def main() -> int:
    """Retrain in the work folder of the arguments; return the exit code."""
    work = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        os.nice(NICE)
    try:
        with file_lock.held(work / LOCK):
            from finetune.core.quiet import quiet

            quiet()
            retrain(work)
    except BlockingIOError:
        return 0  # another process of this review is training
    except ReheadError as error:
        (work / PROBLEM).write_text(str(error), encoding="utf-8")
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        (work / PROBLEM).write_text(f"{type(error).__name__}; see {work / 'output.txt'}", encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
