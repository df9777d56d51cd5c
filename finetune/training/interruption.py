"""Ctrl-C and SIGTERM during training: recorded at once, acted on where the run can be saved exactly.

The Trainer saves; this module decides when a run may end.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from transformers import TrainerCallback

from finetune.core.events import Info, Listener
from finetune.training import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal arrived, and the run has reached a point where it can be saved.

    Attributes:
        is_saved: whether the checkpoint of this update is already written.
        evaluation_due: whether the update's evaluation is still to be done.
    """

    def __init__(self, *, is_saved: bool, evaluation_due: bool) -> None:
        super().__init__("interrupted")
        self.is_saved, self.evaluation_due = is_saved, evaluation_due


class SignalCatcher:
    """A context that records the first SIGINT or SIGTERM; a second one has its former effect, but for a second SIGTERM
    to one of several processes.

    Outside the main thread, and for signals that the process ignores, it has no effect.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalCatcher:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: not set from Python
                    self._before[number] = before
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *problem: object) -> None:
        self._restore()

    def is_due(self) -> bool:
        """Return whether a signal has arrived in any of the processes, which all must ask at the same point."""
        if processes.count() > 1:
            self.received = int(processes.largest(self.received or 0)) or None
        return self.received is not None

    def deliver(self) -> NoReturn:
        """Raise the received signal again, with the handlers from before the context.

        Raises:
            KeyboardInterrupt: or whatever the former handler raises; without one, SIGTERM ends the process.
        """
        self._restore()
        if self.received is not None:
            handle(self.received)
        raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # schedulers such as Slurm signal a process and its launcher, which passes the signal on
        if self.received is None or (number == signal.SIGTERM and processes.count() > 1):
            self.received = self.received or number
            return
        self._restore()
        handle(number)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}


def handle(number: int) -> None:
    """Do what the handler of a signal does: call it if it is Python's, else raise the signal."""
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)
    else:
        signal.raise_signal(number)


class InterruptionCallback(TrainerCallback):
    """Ends a run with `Interrupted` where its state is exact: after an update, within an evaluation, after a save.

    Args:
        is_due: `(control, state) -> bool`, whether an evaluation follows the update that has just ended.
    """

    def __init__(self, catcher: SignalCatcher, is_due: Callable[[Any, Any], bool], say: Listener) -> None:
        self.catcher, self.is_due, self.say = catcher, is_due, say
        self.random_before_evaluation: Any = None
        self._is_announced = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._announce()

    def on_substep_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._announce()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._announce()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        due = self.is_due(control, state)
        if self.catcher.is_due():
            raise Interrupted(is_saved=False, evaluation_due=due)
        if due:
            self.remember_random()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if self.random_before_evaluation is not None and self.catcher.is_due():
            restore_random(self.random_before_evaluation)
            raise Interrupted(is_saved=False, evaluation_due=True)

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if self.catcher.is_due():
            raise Interrupted(is_saved=True, evaluation_due=False)

    def remember_random(self) -> None:
        """Store the states of all random generators before an evaluation."""
        self.random_before_evaluation = random_states()

    def _announce(self) -> None:
        if self.catcher.received is not None and not self._is_announced:
            self._is_announced = True
            self.say(Info("stopping after this update to save a checkpoint; a second Ctrl-C stops at once"))


def random_states() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's random generators."""
    import numpy as np
    import torch

    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.random.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def restore_random(states: dict[str, Any]) -> None:
    """Set all random generators to states that `random_states` returned."""
    import numpy as np
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
