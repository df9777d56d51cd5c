"""How the No labels tab words a run and its result."""

from __future__ import annotations

import pytest

from finetune.core import events
from service.server.training_jobs import Job
from service.ui import distillation_view

pytestmark = pytest.mark.fast

CONFIG = {"texts": "/models/.training/m/table.csv", "models_dir": "/models"}
SCORED = events.Processed("scored", 512, 2000, 120.0)
STEP = events.Step(update=3, updates=14, epoch=0.5, loss=0.7, lr=1e-3, rows_per_s=9.0, left_s=30.0)
SHARES = {
    "sports": {"teacher": 0.25, "refined": 0.5, "student": 0.75},
    "<b>": {"teacher": 0, "refined": 0, "student": 0},
}
AGREEMENT = {"teacher_refined": 0.9, "refined_student": 0.8, "teacher_student": 0.7}
CONTENT = {"texts": 40, "trained_on": 30, "shares": SHARES, "agreement": AGREEMENT, "warnings": ["It <i> fits."]}


def shown(state: str, *seen: events.Event) -> str:
    return distillation_view.status(Job("m", state, seen, CONFIG, "distillation"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "sentence", "bar"),
    [
        ((), "reading the texts and loading the teacher", False),
        ((SCORED,), "scored 512 of 2,000 texts, about 2 min left", True),
        ((SCORED, events.Processed("scored", 2000, 2000, 0.0)), "refining the scores", False),
        ((events.Processed("scored", 2000, 2000, 0.0), events.Started(14, 7, 54, 6)), "training the student", False),
        ((events.Started(14, 7, 54, 6), STEP), "update 3 of 14, loss 0.700, about 30 s left", True),
        ((events.Step(14, 14, 2.0, 0.1, 1e-3, 9.0, 0.0),), "comparing teacher and student", False),
    ],
)
def test_a_running_distillation_shows_its_stage_and_what_is_done(seen, sentence, bar) -> None:
    text = shown("running", *seen)
    assert sentence in text and ("<progress" in text) == bar


def test_a_failed_distillation_says_why_without_a_path_of_the_server() -> None:
    text = shown("failed", events.Failed("/models/.training/m/table.csv: no column 'topic'"))
    assert "Distilling <b>m</b> failed" in text and "table.csv: no column" in text and "/models" not in text


def test_a_result_without_labels_says_that_accuracy_is_unknown_and_escapes_what_it_quotes() -> None:
    rows = [{"kind": "most confident", "label": "sports", "row": 1, "text": "<script>", "score": 0.9}]
    text = distillation_view.result("m", CONTENT, rows)
    assert "Accuracy is unknown: no row was labeled by a person" in text
    assert "agree on 90.0% of them, refined labels and student on 80.0%, teacher and student on 70.0%" in text
    assert "<td>sports</td><td>25.0% (10)</td><td>50.0% (20)</td><td>75.0% (30)</td>" in text
    assert "<td>most confident</td><td>&lt;script&gt;</td><td>0.900</td>" in text
    assert "<script>" not in text and "<td><b></td>" not in text and "It &lt;i&gt; fits." in text
    assert 'href="./#tab=sentiment&amp;model=%22m%22"' in text


def test_a_measured_result_has_each_stage_with_its_interval_and_the_sentence() -> None:
    metrics = {
        stage: {name: {"value": value, "low": 0.5, "high": 0.95} for name in ("accuracy", "macro_f1", "mcc")}
        for stage, value in (("teacher", 0.7), ("refined", 0.8), ("student", 0.9))
    }
    measured = {"rows": 30, "metrics": metrics, "sentence": "The student may replace the teacher."}
    text = distillation_view.result("m", CONTENT | {"measured": measured}, [])
    assert "The student may replace the teacher." in text and "is unknown" not in text
    assert "<td>student</td><td>0.900 (0.500 to 0.950)</td><td>0.900 (0.500 to 0.950)</td></tr>" in text
    assert "On 30 rows that people labeled, none of them trained on" in text
