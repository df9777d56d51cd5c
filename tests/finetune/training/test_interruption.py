"""What a run survives: Ctrl-C and SIGTERM, at any update, and what it then goes on with."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from finetune.config.training import TrainConfig
from finetune.core import events, model_folder
from finetune.run import train
from finetune.training.checkpoints import last_good_checkpoint, note_of
from finetune.training.fit import TrainingAttempt
from finetune.training.interruption import SignalCatcher, handle

Make = Callable[..., TrainConfig]
SNAPSHOT_EACH = {"every": 1}


class Interrupt:
    """A listener that sends this process a signal in the middle of an update."""

    def __init__(self, update: int, number: int = signal.SIGINT) -> None:
        self.update, self.number, self.heard = update, number, list[events.Event]()

    def __call__(self, event: events.Event) -> None:
        self.heard.append(event)
        if isinstance(event, events.GradientsRecorded) and event.update == self.update:
            handle(self.number)

    def warnings(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, events.Info | events.Warned))


def weights_of(folder: Path) -> str:
    return model_folder.sha256(folder / "model.safetensors")


def work_of(config: TrainConfig) -> Path:
    return Path(config.out).with_name(f".{Path(config.out).name}.run")


def checkpoint_of(config: TrainConfig) -> Path:
    last = last_good_checkpoint(work_of(config))
    assert last is not None
    return last


@pytest.mark.parametrize(
    ("more", "updates"),
    [
        ({"optim": {"epochs": 2}}, [1, 3, 7, 9, 14]),  # 7 and 14 end an epoch: their evaluation is made up for
        (
            {"optim": {"epochs": 1.5, "accumulation": 2, "ema_decay": 0.9}, "checkpoint": {"every_steps": 2}},
            [1, 2, 5, 6],
        ),
        pytest.param(
            {"optim": {"epochs": 2, "schedule": "one_cycle", "early_stopping": 1, "lr": 1e-6}},
            [2, 7],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_interrupted_at_any_update_ends_bit_equal_to_an_unbroken_one(
    config: Make, reviews: Any, tmp_path: Path, more: dict[str, Any], updates: list[int]
) -> None:
    more = {"gradients": SNAPSHOT_EACH, "tfidf_baseline": False} | more
    unbroken = train(config(**more | {"optim": dict(more["optim"])}, out=str(tmp_path / "whole")), reviews)
    broken = config(**more, out=str(tmp_path / "broken"))
    for update in updates:
        interrupt = Interrupt(update)
        with pytest.raises(KeyboardInterrupt):
            train(broken.model_copy(update={"resume": update != updates[0]}), reviews, interrupt)
        assert checkpoint_of(broken).name == f"checkpoint-{update}"
        assert f"interrupted at update {update} of" in interrupt.warnings() and "--resume" in interrupt.warnings()
    resumed = train(broken.model_copy(update={"resume": True}), reviews)
    assert weights_of(resumed.path) == weights_of(unbroken.path)
    assert resumed.updates == unbroken.updates
    assert resumed.metrics == unbroken.metrics


class AtPrediction(TrainerCallback):
    """Sends this process a signal in the middle of an evaluation."""

    def __init__(self) -> None:
        self.is_sent = False

    def on_prediction_step(self, *args: Any, **rest: Any) -> None:
        if not self.is_sent:
            self.is_sent = True
            handle(signal.SIGINT)


def test_an_evaluation_is_left_at_once_and_made_up_for(
    config: Make, reviews: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"optim": {"epochs": 2}, "tfidf_baseline": False}
    unbroken = train(config(**more | {"optim": {"epochs": 2}}, out=str(tmp_path / "whole")), reviews)
    broken = config(**more, out=str(tmp_path / "broken"))
    callbacks, probe = TrainingAttempt._callbacks, AtPrediction()
    monkeypatch.setattr(TrainingAttempt, "_callbacks", lambda fitting: [*callbacks(fitting), probe])
    with pytest.raises(KeyboardInterrupt):
        train(broken, reviews)
    assert note_of(checkpoint_of(broken)).evaluation_due
    evaluated: list[events.Event] = []
    resumed = train(broken.model_copy(update={"resume": True}), reviews, evaluated.append)
    assert [event.update for event in evaluated if isinstance(event, events.Evaluated)] == [7, 14]
    assert weights_of(resumed.path) == weights_of(unbroken.path)


def test_a_second_signal_stops_at_once(config: Make, reviews: Any) -> None:
    class Twice(Interrupt):
        def __call__(self, event: events.Event) -> None:
            super().__call__(event)
            if isinstance(event, events.GradientsRecorded) and event.update == self.update:
                handle(self.number)

    interrupt = Twice(2)
    with pytest.raises(KeyboardInterrupt):
        train(config(gradients=SNAPSHOT_EACH), reviews, interrupt)
    assert "interrupted before the first checkpoint: nothing is saved" in interrupt.warnings()
    assert not work_of(config()).exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), list[Any]()

    def enter() -> None:
        with SignalCatcher():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with SignalCatcher() as catcher:
            handle(signal.SIGINT)
        assert catcher.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interruption_before_training_starts_leaves_nothing(config: Make, reviews: Any, tmp_path: Path) -> None:
    def stop(event: events.Event) -> None:
        handle(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config(out=str(tmp_path / "deep" / "model")), reviews, stop)
    assert not (tmp_path / "deep").exists()
