"""The queue: results go to their callers; batches, limits, cancellation, errors."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial

import pytest
from waiting import until

from service.errors import BackendFailed, Overloaded
from service.inference.batch_queue import BatchQueue
from service.inference.processor_share import processor_share
from service.inference.queued_rows import Call, QueuedRows, Row
from service.schema import Work


class Recorder:
    """Echoes payloads, remembers batches, and waits at a gate while it is closed."""

    def __init__(self):
        self.batches, self.gate, self.entered = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, kind, payloads):
        self.entered.set()
        self.gate.wait(10)
        self.batches.append((kind, list(payloads)))
        return payloads


@pytest.fixture
def recorder():
    return Recorder()


def blocked(recorder, queue):
    """A queue whose thread is busy with one item until the gate opens."""
    recorder.gate.clear()
    first = queue.submit("held", ["first"], [1], rows=1)
    assert recorder.entered.wait(10)
    return first


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_of_many_requests_no_answer_reaches_the_wrong_caller(count):
    queue = BatchQueue(
        lambda kind, payloads: [(kind, payload) for payload in payloads], batch_tokens=64, max_tokens=10**9
    )

    def ask(caller):
        wrong = 0
        for start in range(0, count // 8, 50):
            futures = [
                (queue.submit(number % 3, [(caller, number)], [1 + number % 7], rows=16), number)
                for number in range(start, start + 50)
            ]
            wrong += sum(future.result(30) != [(number % 3, (caller, number))] for future, number in futures)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [0] * 8


def test_results_come_in_the_order_of_the_payloads():
    queue = BatchQueue(lambda kind, payloads: payloads, batch_tokens=10, max_tokens=1000)
    lengths = [3, 9, 1, 9, 2, 5]
    assert queue.submit("a", list("abcdef"), lengths, rows=4).result(10) == list("abcdef")


def test_a_batch_is_of_one_kind_and_similar_length_within_the_budget(recorder):
    queue = BatchQueue(recorder, batch_tokens=40, max_tokens=10_000)
    blocked(recorder, queue)
    futures = [
        queue.submit("even" if length % 2 == 0 else "odd", [length], [length], rows=5) for length in range(1, 41)
    ]
    recorder.gate.set()
    assert [future.result(10) for future in futures] == [[length] for length in range(1, 41)]
    for kind, lengths in recorder.batches[1:]:
        assert {length % 2 for length in lengths} == {kind == "odd"}
        assert len(lengths) <= 5 and max(lengths) <= 2 * min(lengths)
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= 40


def test_a_call_alone_is_computed_longest_first_with_next_to_no_padding(recorder):
    queue = BatchQueue(recorder, batch_tokens=100, max_tokens=10_000)
    lengths = [10] * 25 + [5] * 40 + [4]
    queue.submit("a", lengths, lengths, rows=64).result(10)
    longest = [max(lengths) for _, lengths in recorder.batches]
    assert longest == sorted(longest, reverse=True)
    assert sum(len(lengths) * max(lengths) for _, lengths in recorder.batches) < 1.2 * sum(lengths)


def test_the_oldest_row_goes_first_however_many_others_arrive(recorder):
    queue = BatchQueue(recorder, batch_tokens=100, max_tokens=10_000)
    blocked(recorder, queue)
    short = [queue.submit("a", ["short"], [1], rows=2) for _ in range(3)]
    long = queue.submit("a", ["long"], [90], rows=2)
    later = [queue.submit("a", ["short"], [1], rows=2) for _ in range(30)]
    recorder.gate.set()
    for future in (*short, long, *later):
        future.result(10)
    assert [payloads for _, payloads in recorder.batches].index(["long"]) <= 3


def test_one_bad_item_in_32_fails_alone():
    def run(kind, payloads):
        if "bad" in payloads:
            raise RuntimeError("no such text")
        return payloads

    queue = BatchQueue(run, batch_tokens=10_000, max_tokens=10_000)
    futures = [queue.submit("a", ["bad" if number == 17 else number], [3], rows=32) for number in range(32)]
    for number, future in enumerate(futures):
        if number == 17:
            with pytest.raises(RuntimeError, match="no such text"):
                future.result(10)
        else:
            assert future.result(10) == [number]
    assert queue.submit("a", ["later"], [3], rows=32).result(10) == ["later"]


def test_a_full_queue_raises_at_once_and_a_call_that_waits_gets_in(recorder):
    queue = BatchQueue(recorder, batch_tokens=10, max_tokens=10)
    blocked(recorder, queue)
    waiting = queue.submit("a", ["b", "c"], [5, 5], rows=1)
    with pytest.raises(Overloaded, match=r"the queue of this model is full \(10 tokens\): try again"):
        queue.submit("a", ["d"], [1], rows=1)
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(lambda: queue.submit("a", ["d"], [1], rows=1, wait=True).result(10))
        with pytest.raises(TimeoutError):
            patient.result(0.05)
        recorder.gate.set()
        assert patient.result(10) == ["d"] and waiting.result(10) == ["b", "c"]


def test_a_call_larger_than_the_queue_is_accepted_when_it_is_empty(recorder):
    queue = BatchQueue(recorder, batch_tokens=10, max_tokens=10)
    assert queue.submit("a", list(range(50)), [5] * 50, rows=8).result(10) == list(range(50))


def test_cancelled_rows_never_reach_the_model(recorder):
    queue = BatchQueue(recorder, batch_tokens=10, max_tokens=20)
    blocked(recorder, queue)
    left, kept = queue.submit("a", ["left"], [10], rows=1), queue.submit("a", ["kept"], [10], rows=1)
    assert left.cancel()
    after = queue.submit("a", ["after"], [10], rows=1)  # there is room again
    recorder.gate.set()
    assert kept.result(10) == ["kept"] and after.result(10) == ["after"]
    assert all("left" not in payloads for _, payloads in recorder.batches)
    with pytest.raises(CancelledError):
        left.result(10)


def test_closing_under_load_finishes_what_is_queued_and_accepts_no_more(recorder):
    queue = BatchQueue(recorder, batch_tokens=10, max_tokens=10_000)
    blocked(recorder, queue)
    futures = [queue.submit("a", [number], [4], rows=4) for number in range(40)]
    closing = threading.Thread(target=queue.close)
    closing.start()
    until(lambda: queue._closed, "closing")
    with pytest.raises(BackendFailed, match="closed"):
        queue.submit("a", ["late"], [1], rows=1)
    recorder.gate.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [[number] for number in range(40)] and not closing.is_alive()


def test_the_worker_ends_when_nothing_comes_and_starts_again(recorder, monkeypatch):
    monkeypatch.setattr("service.inference.batch_queue.IDLE_S", 0.01)
    queue = BatchQueue(recorder, batch_tokens=10, max_tokens=10)
    assert queue.submit("a", [1], [1], rows=1).result(10) == [1]
    until(lambda: queue._thread not in threading.enumerate(), "the end of the worker")
    assert queue.submit("a", [2], [1], rows=1).result(10) == [2]


def test_a_request_never_waits_for_itself(recorder):
    queue = BatchQueue(recorder, batch_tokens=8, max_tokens=20)
    queue.submit("warm", ["a"], [1], rows=1).result(10)
    queue._tokens_per_s = 1.0  # so that each row takes seconds
    work, other = Work(queue_timeout_s=2.0), Work(queue_timeout_s=2.0)
    held = blocked(recorder, queue)
    first = queue.submit("own", ["b", "c"], [8, 8], rows=1, timings=work)
    second = queue.submit("more of it", ["d"], [8], rows=1, timings=work)
    with pytest.raises(Overloaded, match="full"):
        queue.submit("other", ["e"], [1], rows=1, timings=other)
    recorder.gate.set()
    assert [future.result(10) for future in (held, first, second)] == [["first"], ["b", "c"], ["d"]]


def test_rows_that_wait_for_the_first_rows_of_their_request_do_not_time_out():
    now, rows = 1000.0, QueuedRows()
    begun, waiting = Work(queue_timeout_s=2.0, computing_s=5.0), Work(queue_timeout_s=2.0)
    for timings in (begun, waiting):
        call = Call(Future(), [None], 1, timings, now - 10.0)
        rows.add("kind", [Row("payload", 1, call, 0, 0, 1)])
    assert [row.call.timings for row in rows.remove_timed_out(now)] == [waiting]


class Hangs:
    """Blocks on the payload `hang` until released; counts how often the machine was measured meanwhile."""

    def __init__(self, monkeypatch, share):
        self.released, self.restarts, self.measured = threading.Event(), [], []

        def measure():
            self.measured.append(share)
            return share

        monkeypatch.setattr("service.inference.batch_queue.HANG_S", 0.05)
        monkeypatch.setattr("service.inference.batch_queue.processor_share", measure)
        restart = partial(self.restarts.append, 1)
        self.queue = BatchQueue(self.run, batch_tokens=8, max_tokens=20, family=lambda kind: kind[0], restart=restart)

    def run(self, kind, payloads):
        if "hang" in payloads and not self.restarts:
            self.released.wait(30)
        return payloads

    def submit(self, kind, payload):
        return self.queue.submit(kind, [payload], [1], rows=1)


def test_a_batch_of_a_known_kind_that_gets_a_processor_and_does_not_end_hangs(monkeypatch):
    hangs = Hangs(monkeypatch, share=1.0)
    assert hangs.submit("known", "a").result(10) == ["a"]
    with pytest.raises(BackendFailed, match="hung"):
        hangs.submit("known", "hang").result(10)
    assert hangs.submit("known", "b").result(10) == ["b"] and hangs.restarts == [1]
    hangs.released.set()


@pytest.mark.parametrize(("kind", "share"), [("new", 1.0), ("known", 0.001)])
def test_a_first_batch_of_its_kind_and_one_that_gets_no_processor_do_not_hang(monkeypatch, kind, share):
    hangs = Hangs(monkeypatch, share)
    assert hangs.submit("known", "a").result(10) == ["a"]
    slow = hangs.submit(kind, "hang")
    until(lambda: len(hangs.measured) >= 40, "the queue has checked the batch often")
    hangs.released.set()
    assert slow.result(10) == ["hang"] and not hangs.restarts
    hangs.queue.close()


def test_the_share_of_a_processor_is_measured():
    assert 0.0 < processor_share() <= 1.0
