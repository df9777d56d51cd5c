"""One account of a question for callers who wait and for callers who await.

A generator of steps yields what has to happen next: a function to call, or a future to wait for; it is sent the
outcome. `finish` lets the calling thread do so, `afinish` leaves an event loop free meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Quick:
    """A function that takes less time than handing it to another thread would."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self) -> Any:
        """Call it."""
        return self._call()


Steps = Generator[Callable[[], Any] | Future[Any], Any, T]


def finish(steps: Steps[T]) -> T:
    """The steps' result, in this thread."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.result() if isinstance(step, Future) else step()
            except BaseException as error:  # the steps decide what becomes of it, Ctrl-C among them
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


async def afinish(steps: Steps[T]) -> T:
    """The steps' result; functions that are not `Quick` run in another thread. Cancelled, it cancels what it waits
    for."""
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Quick):
                    outcome = step()
                else:
                    outcome = await (asyncio.wrap_future(step) if isinstance(step, Future) else _in_a_thread(step))
            except BaseException as error:  # cancellation among them
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


async def _in_a_thread(step: Callable[[], Any]) -> Any:
    """The outcome of a step; one that nobody waits for any more is let go of when it is there."""
    task = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_let_go)
        raise


def _let_go(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is not None:
        return
    outcome = task.result()
    for future in getattr(outcome, "futures", [outcome]):
        if isinstance(future, Future):
            future.cancel()
