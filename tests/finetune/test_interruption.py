"""What a run survives: Ctrl-C and SIGTERM, at any update, and what it then goes on with."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from finetune import artifact, events
from finetune.checkpoints import is_whole, last_good_checkpoint, note_of
from finetune.config import TrainConfig
from finetune.configfile import dump
from finetune.fitting import Fitting
from finetune.interruption import SignalCatcher
from finetune.run import train
from finetune.tables import write_table

Make = Callable[..., TrainConfig]
LOOK_EACH = {"every": 1}


class Interrupt:
    """A listener that sends this process a signal in the middle of an update."""

    def __init__(self, update: int, number: int = signal.SIGINT) -> None:
        self.update, self.number, self.heard = update, number, list[events.Event]()

    def __call__(self, event: events.Event) -> None:
        self.heard.append(event)
        if isinstance(event, events.Looked) and event.update == self.update:
            signal.raise_signal(self.number)

    def said(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, events.Said | events.Warned))


def weights_of(folder: Path) -> str:
    return artifact.sha256(folder / "model.safetensors")


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
        ({"optim": {"epochs": 1.5, "accumulation": 2, "average": 0.9}, "checkpoint": {"every_steps": 2}}, [1, 2, 5, 6]),
        ({"optim": {"epochs": 2, "schedule": "one_cycle", "early_stopping": 1, "lr": 1e-6}}, [2, 7]),
    ],
)
def test_a_run_interrupted_at_any_update_ends_bit_equal_to_an_unbroken_one(
    config: Make, reviews: Any, tmp_path: Path, more: dict[str, Any], updates: list[int]
) -> None:
    more = {"gradients": LOOK_EACH, "tfidf_baseline": False} | more
    unbroken = train(config(**more | {"optim": dict(more["optim"])}, out=str(tmp_path / "whole")), reviews)
    broken = config(**more, out=str(tmp_path / "broken"))
    for update in updates:
        interrupt = Interrupt(update)
        with pytest.raises(KeyboardInterrupt):
            train(broken.model_copy(update={"resume": update != updates[0]}), reviews, interrupt)
        assert checkpoint_of(broken).name == f"checkpoint-{update}"
        assert f"interrupted at update {update} of" in interrupt.said() and "--resume" in interrupt.said()
    resumed = train(broken.model_copy(update={"resume": True}), reviews)
    assert weights_of(resumed.path) == weights_of(unbroken.path)
    assert resumed.updates == unbroken.updates
    assert resumed.metrics == unbroken.metrics
