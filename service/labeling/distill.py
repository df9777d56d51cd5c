"""From a table of texts and the names of labels to a model folder, top to bottom.

Nothing at `out` is touched before the new folder is complete. The folder `.NAME.distill` beside it keeps the teacher's
scores, so that the same command continues a run that was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from finetune.core import model_folder
from finetune.core.errors import ConfigError
from finetune.core.event_printer import EventPrinter
from finetune.core.events import Finished, Info, Listener, Processed, Saved, Warned
from finetune.core.file_lock import held
from finetune.core.labels import LabelSpace
from finetune.core.launch import require_one_process
from finetune.core.scores import sigmoid, softmax
from finetune.data.rows import Rows
from finetune.run import TrainResult
from service.labeling import card, distill_report
from service.labeling.config import DistillConfig, build
from service.labeling.corpus import Corpus, corpus_of
from service.labeling.distill_report import DistillReport, Measured
from service.labeling.embedders import Embedders
from service.labeling.refine import PROPORTIONED
from service.labeling.scored_corpus import Progress, ScoredTexts, score_corpus, score_texts
from service.labeling.soft_labels import SoftLabels, soft_labels_of, write_training_table
from service.labeling.student import TABLE, Student, base_of, publish, student_config, train_student
from service.labeling.teacher import Callable_, Teacher, teacher_of

AGREEMENT_ROWS = 5_000
"""Texts, drawn at random, that the student is compared with its labels on."""


@dataclass(frozen=True)
class DistillResult:
    """The result of a distillation.

    Attributes:
        path: the model folder.
        report: what is known about the model, with accuracies where people labeled rows.
        training: the result of the student's training; its validation metrics are agreement with the teacher's labels.
        counts: rows of the table, by what happened to them.
    """

    path: Path
    report: DistillReport
    training: TrainResult
    counts: dict[str, int]


def distill(
    texts: Any,
    labels: Sequence[str] | str,
    out: str | PathLike[str],
    *,
    teacher: str | Callable_ | dict[str, Any] | None = None,
    on_event: Listener | None = None,
    progress: bool = True,
    **settings: Any,
) -> DistillResult:
    """Train a classifier on texts without labels: a teacher scores them, the corpus refines the scores, and a student
    learns them.

        result = rehead.distill("texts.csv", ["sports", "business", "science"], "models/news")
        print("\\n".join(result.report.lines()))

    Args:
        texts: a table file, or texts in memory: a list of strings, a data frame, a list of dicts.
        labels: names of the labels, in words that describe the texts; a string has commas between them.
        out: model folder to write.
        teacher: name or path of a zero-shot or fine-tuned model, a function `(texts, labels) -> scores [N, L]`, or
            the settings of a teacher, such as `{"name": "endpoint", "url": ..., "model": ...}`; by default `topics`.
        on_event: called with each event of the run; nothing is printed then.
        progress: print progress to standard error where there is no `on_event`.
        settings: any other field of `service.labeling.config.DistillConfig`, which the options of `rehead distill` are
            named after, such as `validation`, `label_column`, `none_of_these`, `refinement`, `rows`, `student`.

    Returns:
        The model folder's path, and what is known of the model: `report.lines()` says it in sentences.

    Raises:
        ReheadError: settings, texts, teacher or base cannot be used, or training failed.
    """
    in_memory = not isinstance(texts, str | PathLike)
    content: dict[str, Any] = {
        "texts": "the given texts" if in_memory else str(texts),
        "labels": labels,
        "out": str(out),
    }
    content |= settings
    function = teacher if callable(teacher) else None
    if isinstance(teacher, str):
        content["teacher"] = {"name": "model", "model": teacher}
    elif teacher is not None and function is None:
        content["teacher"] = teacher
    config = build(content)
    return run(config, texts if in_memory else None, function, on_event, progress=progress)


def run(
    config: DistillConfig,
    data: Any = None,
    function: Callable_ | None = None,
    on_event: Listener | None = None,
    *,
    progress: bool = True,
) -> DistillResult:
    """Do what `distill` does, from a config.

    Args:
        data: texts in memory in place of `config.texts`.
        function: a Python teacher in place of `config.teacher`.
    """
    require_one_process("distillation")
    out = Path(config.out)
    with ExitStack() as stack:
        emit = on_event if on_event is not None else _printer(stack, progress)

        # 1. Refuse what can be refused before anything is computed.
        model_folder.check_output(out, overwrite=config.overwrite)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(held(config.work))
        except BlockingIOError as error:
            raise ConfigError(f"another run is writing {out}: wait until it ends, or choose another --out") from error
        student_config(config, config.base or "topics")
        corpus = corpus_of(config, data)
        _announce_rows(corpus, emit)
        teacher = teacher_of(config, function)
        stack.callback(teacher.close)
        base = base_of(config, teacher)

        # 2. The teacher's scores, in the cache and in files, with an embedding of each text.
        embedders = Embedders(config, base, teacher.base, corpus.texts)
        stack.callback(embedders.close)
        emit(Info(teacher.announce(len(corpus.texts), _characters(corpus))))
        scored = score_corpus(config, teacher, corpus, embedders, _progress(emit))
        _announce_scores(scored, emit)

        # 3. Soft labels, refined by the corpus, and the rows of each label that are most certain.
        labels = soft_labels_of(config, scored)
        emit(Info(f"refinement: {labels.refinement}{_hint(config, labels)}"))
        column, _ = write_training_table(config.work / TABLE, config, corpus.texts, labels)
        emit(Info(f"training rows: {len(labels.chosen):,} of {len(corpus.texts):,}, {_sizes(config, labels)}"))

        # 4. The student, by the ordinary pipeline.
        recipe = student_config(config, base, column, len(labels.chosen))
        training = train_student(recipe, config.out, emit)

        # 5. What is known about it, beside it; then the folder moves to its place.
        report = _reported(config, corpus, scored, labels, training.path, teacher, embedders)
        card.describe(config, training.path, report, teacher.name)
        publish(training.path, out)
        training = replace(training, path=out)
        emit(Saved(str(out)))
        emit(Finished(str(out), training.metrics, tuple(report.lines())))
        return DistillResult(out, report, training, corpus.counts)


def _printer(stack: ExitStack, progress: bool) -> Listener:
    return stack.enter_context(EventPrinter()) if progress else lambda event: None


def _progress(emit: Listener) -> Progress:
    """Return what reports each chunk of the texts; the time left follows from those that were not in the cache."""
    begun: dict[str, float] = {}

    def progress(verb: str, done: int, rows: int, computed: int) -> None:
        if done == 0:  # another model embeds
            begun.pop(verb, None)
        seconds = time.monotonic() - begun.setdefault(verb, time.monotonic())
        left_s = seconds / computed * (rows - done) if computed and seconds else None
        emit(Processed(verb, done, rows, left_s))

    return progress


def _characters(corpus: Corpus) -> int:
    """Return the characters of all texts, estimated from the first ones."""
    head = list(corpus.texts[:1000])
    return sum(map(len, head)) * len(corpus.texts) // max(1, len(head))


def _announce_rows(corpus: Corpus, emit: Listener) -> None:
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in corpus.counts.items() if count)
    emit(Info(f"{corpus.name}: {counts}"))
    if corpus.note:
        emit(Info(f"{corpus.name}: {corpus.note}"))
    if corpus.measured is None:
        emit(Info("no row is labeled by a person: accuracy will be unknown"))


def _announce_scores(scored: ScoredTexts, emit: Listener) -> None:
    count = len(scored.logits)
    if scored.computed < count:
        emit(Info(f"{count - scored.computed:,} of {count:,} scores came from the cache"))
    missing = count - int(scored.answered.sum())
    if missing:
        emit(Warned(f"the teacher gave no usable answer to {missing:,} of {count:,} texts: they are not trained on"))


def _hint(config: DistillConfig, labels: SoftLabels) -> str:
    """Return what follows the name of a refinement that estimated the proportions of the labels; empty for others."""
    if config.priors != "estimated" or labels.refinement not in PROPORTIONED:
        return ""
    return "; if the labels are equally frequent, priors=uniform (--priors uniform) assigns them better"


def _sizes(config: DistillConfig, labels: SoftLabels) -> str:
    rows = labels.soft[labels.chosen]
    sizes = (
        (rows >= 0.5).sum(axis=0) if config.multi_label else np.bincount(rows.argmax(axis=1), minlength=len(rows[0]))
    )
    order = np.argsort(-sizes, kind="stable")
    shown = [f"{config.names[place]} {sizes[place]:,}" for place in order.tolist()]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])


def _reported(
    config: DistillConfig,
    corpus: Corpus,
    scored: ScoredTexts,
    labels: SoftLabels,
    folder: Path,
    teacher: Teacher,
    embedders: Embedders,
) -> DistillReport:
    """Write the report into a finished student's folder, and return it."""
    student = Student(folder, config)
    try:
        measured = None
        if corpus.measured is not None:
            measured = _measured(config, corpus.measured, labels, student, teacher, embedders, _space(folder))
        count = len(corpus.texts)
        places = np.arange(count)
        if count > AGREEMENT_ROWS:
            places = np.sort(np.random.default_rng(config.seed + 1).choice(count, AGREEMENT_ROWS, replace=False))
        texts = [corpus.texts[place] for place in places.tolist()]
        scores = student.scores(texts)
    finally:
        student.close()
    logits, _ = scored.parts(places)
    taught = sigmoid(logits) if config.multi_label else softmax(logits)
    soft, fit = labels.soft[places], np.asarray(scored.fit[places])
    report = distill_report.report_of(
        config, taught, soft, scores, fit, len(labels.chosen), labels.refinement, measured
    )
    report = replace(report, texts=count)
    distill_report.write(folder / "report", config, report, texts, corpus.rows[places], soft, scores, fit)
    return report


def _space(folder: Path) -> LabelSpace:
    return model_folder.read(folder).labels


def _measured(
    config: DistillConfig,
    rows: Rows,
    labels: SoftLabels,
    student: Student,
    teacher: Teacher,
    embedders: Embedders,
    space: LabelSpace,
) -> Measured:
    """Return the metrics of teacher, refined labels and student on rows that people labeled."""
    texts = list(rows.texts)
    answers = score_texts(config, teacher, texts, embedders)
    logits, embeddings = answers.parts(slice(None))
    stages = {
        "teacher": sigmoid(logits) if config.multi_label else softmax(logits),
        "refined": labels.refined(logits, embeddings),
        "student": student.scores(texts),
    }
    return distill_report.measure(space, rows, stages, config.names)
