"""How the Train tab words a run: what is wrong first, then the figures and the rows they were measured on."""

import pytest

from finetune.core import events
from service.server.training_jobs import Job
from service.ui import training_view
from service.ui.tabs.train import drawn

pytestmark = pytest.mark.fast

CONFIG = {"data": {"train": [{"path": "/models/.training/m/table.csv"}]}, "models_dir": "/models"}
BEGUN = events.Started(updates=7, updates_per_epoch=7, rows=54, validation_rows=6)
UNTRAINED = "the model is untrained: on the 6 validation rows it is no better than always answering 'no'"
CHOSEN = "the best of 3 checkpoints was chosen on the validation rows (by macro_f1), so that they are optimistic"


def shown(state: str, *seen: events.Event) -> str:
    return training_view.status(Job("m", state, seen, CONFIG))  # type: ignore[arg-type]


def test_an_untrained_model_is_said_to_be_one_before_its_figures_and_once() -> None:
    finished = events.Finished("/models/m", {"accuracy": 0.5}, (UNTRAINED, CHOSEN))
    text = shown("finished", BEGUN, events.Info("a base"), events.Warned(UNTRAINED), finished)
    assert text.count("The model is untrained") == 1 and "the model is untrained" not in text
    assert text.index("The model is untrained") < text.index("accuracy 0.500 on 6 validation rows")
    assert "The best of 3 checkpoints was chosen on the validation rows (by macro_f1)" in text
    assert 'rehead-warning">The model is untrained' in text and 'rehead-note">The best of 3 checkpoints' in text


def test_a_diverged_run_is_said_to_be_one_before_anything_else_it_said() -> None:
    said = [events.Info(f"remark {number}") for number in range(9)]
    failed = events.Failed("the run diverged: the loss rose to 593 by update 9, and was 0.69 at the start.")
    text = shown("failed", BEGUN, *said, events.Warned("the learning rate is too high"), failed)
    assert text.index("the run diverged") < text.index("remark") < text.index("the learning rate is too high")


def test_events_written_before_notes_were_known_are_still_read() -> None:
    assert "accuracy 0.900" in shown("finished", events.Finished("/models/m", {"accuracy": 0.9}))


def test_one_evaluation_is_a_point_and_several_are_a_line() -> None:
    assert drawn(Job("m", "running", (), CONFIG))[1]["visible"] is False  # before the first update
    step = events.Step(update=3, updates=14, epoch=0.5, loss=0.7, lr=1e-3, rows_per_s=9.0, left_s=1.0)
    evaluated = [events.Evaluated(update, 1.0, {"accuracy": 0.5, "log_loss": 1.0}, best=False) for update in (7, 14)]
    for count, line, point in ((0, False, False), (1, False, True), (2, True, False)):
        seen = (BEGUN, step, *evaluated[:count])
        _, losses, scores, first_scores, *_ = drawn(Job("m", "running", seen, CONFIG))
        assert losses["visible"] and losses["x_lim"] == [0, 14]
        assert (scores["visible"], first_scores["visible"]) == (line, point)
        assert list(first_scores["value"]["score"]) == [0.5] * count
