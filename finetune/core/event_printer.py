"""Print a run's events to standard error: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click

from finetune.core.events import Evaluated, Event, Info, Processed, Started, Step, Warned
from finetune.core.number_format import figure

MANY_SECONDS = 90
"""Time left from which it is given in minutes."""

MANY_ROWS = 1000
"""Texts from which progress over them is printed."""

NOT_METRICS = ("_second", "runtime", "epoch")
"""Endings of what the Trainer reports beside the metrics."""


class EventPrinter:
    """A listener for `train(on_event=...)`; leaving the context closes its progress bar."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._is_estimated = False
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> EventPrinter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        """Print one event; kinds that have no line, such as gradient snapshots, are left out."""
        match event:
            case Started():
                self._started(event)
            case Step():
                self._step(event)
            case Processed():
                self._processed(event)
            case Evaluated():
                self._evaluated(event)
            case Warned():
                self._print(f"warning: {event.text}")
            case Info():
                self._print(event.text)

    def _started(self, event: Started) -> None:
        self._print(
            f"training on {event.rows} rows, validating on {event.validation_rows}: "
            f"{event.updates} updates ({event.updates_per_epoch} an epoch)"
        )
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is not None:  # auto-recovery starts training again
                self._bar.close()
            self._bar = tqdm(total=event.updates, unit="update", dynamic_ncols=True)

    def _step(self, event: Step) -> None:
        left = f"{event.left_s / 60:.1f} min" if event.left_s >= MANY_SECONDS else f"{event.left_s:.0f} s"
        if not self._is_estimated:
            self._print(f"about {left} left, at {event.rows_per_s:.0f} rows/s")
            self._is_estimated = True
        if self._bar is not None:
            self._bar.update(event.update - self._bar.n)
            self._bar.set_postfix_str(f"loss {event.loss:.4f}, {event.rows_per_s:.0f} rows/s, {left} left")
        else:
            self._print(
                f"update {event.update}/{event.updates}  loss {event.loss:.4f}  lr {event.lr:.2e}  "
                f"{event.rows_per_s:.0f} rows/s  {left} left"
            )

    def _processed(self, event: Processed) -> None:
        """Print each tenth of many texts."""
        tenth = event.done * 10 // event.rows
        if event.rows >= MANY_ROWS and tenth > self._tenths.get(event.verb, 0):
            self._tenths[event.verb] = tenth
            self._print(f"{event.verb} {event.done:,} of {event.rows:,} texts")

    def _evaluated(self, event: Evaluated) -> None:
        metrics = {name: value for name, value in event.metrics.items() if not name.endswith(NOT_METRICS)}
        best = {event.best_by: f" (best {event.best_by} so far)"} if event.best else {}
        values = ", ".join(f"{name} {figure(value, 4)}{best.get(name, '')}" for name, value in metrics.items())
        self._print(f"update {event.update}, epoch {event.epoch:.2f}: {values}")

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)
