"""One classifier used by an event loop, threads, a forked process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import ZeroShotClassifier, load

TEXTS = [f"the match {index} was great" for index in range(24)]


def about(answer):
    """An answer, with its score to float32."""
    return answer | {"score": pytest.approx(answer["score"], abs=2e-6)}


def test_aclassify_answers_as_a_call_does_and_lets_the_loop_go_on(tiny_sentiment, tiny_topics):
    model, topics = load(tiny_sentiment), ZeroShotClassifier(tiny_topics)
    ticks = []

    async def tick():
        while True:
            ticks.append(threading.current_thread().name)
            await asyncio.sleep(0.001)

    async def both():
        clock = asyncio.create_task(tick())
        answers = await asyncio.gather(
            model.aclassify(TEXTS, top_k=None),
            model.aclassify(iter(TEXTS)),
            topics.aclassify("the match", ["sports", "money"], multi_label=True),
        )
        clock.cancel()
        return answers

    ranked, best, zero_shot = asyncio.run(both())
    # rows of both calls may have shared a batch, and another batch may be rounded otherwise
    assert ranked == [[about(one) for one in row] for row in model(TEXTS, top_k=None)]
    assert best == [about(one) for one in model(TEXTS)]
    expected = topics("the match", ["sports", "money"], multi_label=True)
    assert zero_shot == expected | {"scores": pytest.approx(expected["scores"], abs=2e-6)}
    assert len(ticks) > 1


def test_threads_get_what_one_caller_gets(tiny_sentiment):
    model = load(tiny_sentiment)
    alone = [model(text, top_k=None) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: model(text, top_k=None), TEXTS))
    for one, other in zip(alone, together, strict=True):  # in whatever batches they came to be
        assert [part["label"] for part in one] == [part["label"] for part in other]
        assert [part["score"] for part in one] == pytest.approx([part["score"] for part in other], abs=1e-6)


FORKED = """
import os, sys

from service import load
model = load(sys.argv[1], backend=sys.argv[2])
texts = ["the match was great"] * 64 + ["a film"]
expected = model(texts)
model.engine._runner.encoder.prepared.lock.__enter__()  # a thread that tokenizes while another one forks
queue = model.engine._runner._queue
queue._changed.acquire()  # and one that is at the queue
child = os.fork()
if child == 0:
    found = model(texts)
    os._exit(0 if [one["label"] for one in found] == [one["label"] for one in expected] else 1)
queue._changed.release()
model.engine._runner.encoder.prepared.lock.__exit__(None, None, None)
assert model(texts) == expected
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_forked_process_answers_and_does_not_hang(tiny_sentiment, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path))
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, str(tiny_sentiment), backend], timeout=120, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
