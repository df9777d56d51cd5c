"""Generators of steps, which run the same code for blocking and for async callers.

A generator yields what has to happen next, a function to call or a future to wait for, and is sent the outcome.
`finish` runs it in the calling thread, `afinish` without blocking an event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Inline:
    """A function that takes less time than its handover to another thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self) -> Any:
        """Call the function."""
        return self._call()


INLINE_CHARACTERS = 2000
"""Characters of texts, or of labels, that are tokenized on the event loop instead of in another thread."""

PARTS_AT_ONCE = 2
"""Parts of a call that are in progress together: while one is computed, the next is tokenized."""


def inline(call: Callable[[], Any], characters: int) -> Callable[[], Any]:
    """Return the call, to be made on the event loop where it has few characters."""
    return Inline(call) if characters <= INLINE_CHARACTERS else call


def parts_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in parts of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


Steps = Generator[Callable[[], Any] | Future[Any], Any, T]


class Submitted(NamedTuple):
    """Futures of submitted rows, and what their caller needs to read the results."""

    futures: list[Future[Any]]
    context: Any


Part = tuple[Callable[[], Submitted], Callable[[list[Any], Any], Steps[None]]]
"""A function that submits a part of a call, and one that takes the results and the context."""


def finish(steps: Steps[T]) -> T:
    """Run the steps in this thread and return their result."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.result() if isinstance(step, Future) else step()
            except BaseException as error:  # the steps handle it, KeyboardInterrupt among them
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


async def afinish(steps: Steps[T]) -> T:
    """Run the steps and return their result; functions that are not `Inline` run in another thread.

    Cancellation cancels the future that is awaited.
    """
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Inline):
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


def overlapping(parts: Sequence[Part], at_once: int) -> Steps[None]:
    """Submit and finish each part, `at_once` of them in progress together; cancel what is left after an error."""
    submitted: deque[tuple[Submitted, Callable[[list[Any], Any], Steps[None]]]] = deque()

    def finish_first() -> Steps[None]:
        first, take = submitted[0]
        results = []
        for future in first.futures:
            results.append((yield future))
        submitted.popleft()
        yield from take(results, first.context)

    try:
        for submit, take in parts:
            submitted.append(((yield submit), take))
            if len(submitted) == at_once:
                yield from finish_first()
        while submitted:
            yield from finish_first()
    finally:
        for part, _ in submitted:
            for future in part.futures:
                future.cancel()


async def _in_a_thread(step: Callable[[], Any]) -> Any:
    """Return the outcome of a step; after cancellation, cancel the futures that it returns."""
    task = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_cancel_futures)
        raise


def _cancel_futures(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is not None:
        return
    outcome = task.result()
    for future in getattr(outcome, "futures", [outcome]):
        if isinstance(future, Future):
            future.cancel()
