"""Scores on disk: what was computed once is not computed again, also after a kill."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from finetune.core.errors import StorageError
from service.labeling.score_cache import ScoreCache, ScoredText

pytestmark = pytest.mark.fast

KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from service.labeling.score_cache import ScoreCache, ScoredText

texts = [f"text {number}" for number in range(40)]
cache = ScoreCache(Path(sys.argv[1]), ["teacher"])
stop, computed = int(sys.argv[2]), []

def compute(part):
    computed.extend(part)
    if len(computed) > stop:
        os._exit(9)  # as a kill would: nothing is flushed or closed
    return [ScoredText(np.array([len(text), 1.0], np.float32), 0.5, None) for text in part]

for start in range(0, 40, 8):
    cache.completed(texts[start : start + 8], compute)
print(len(computed))
"""


def answer(*values, fit=0.5, embedding=None):
    return ScoredText(np.array(values, np.float32), fit, embedding)


def test_a_killed_run_continues_with_what_is_missing(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "scores.sqlite3")]
    killed = subprocess.run([*command, "20"], capture_output=True, text=True, check=False)
    assert killed.returncode == 9
    rest = subprocess.run([*command, "1000"], capture_output=True, text=True, check=True)
    assert json.loads(rest.stdout) == 24  # of 40, 16 were stored before the kill


def test_an_answer_comes_back_as_it_was_stored(tmp_path):
    cache = ScoreCache(tmp_path / "s", ["a"])
    vector = np.linspace(-1, 1, 6, dtype=np.float32)
    cache.put(["x", "y", "\ud800"], [answer(-1, -2, embedding=vector), ScoredText(None, math.nan, None), answer(0)])
    first, second, third, fourth = cache.get(["x", "y", "\ud800", "other"])
    np.testing.assert_array_equal(first.logits, [-1, -2])
    np.testing.assert_allclose(first.embedding, vector, atol=1e-3)  # float16
    assert first.fit == 0.5
    assert second.logits is None
    assert math.isnan(second.fit)
    np.testing.assert_array_equal(third.logits, [0])
    assert fourth is None


def test_repeated_texts_are_computed_once(tmp_path):
    seen = []

    def compute(texts):
        seen.extend(texts)
        return [answer(len(text)) for text in texts]

    cache = ScoreCache(tmp_path / "s", ["a"])
    answers, computed = cache.completed(["x", "yy", "x"], compute)
    assert (seen, computed) == (["x", "yy"], 2)
    assert [float(one.logits[0]) for one in answers] == [1, 2, 1]


@pytest.mark.parametrize("other", [["b"], ["a", "labels"]])
def test_another_teacher_or_other_labels_have_answers_of_their_own(tmp_path, other):
    ScoreCache(tmp_path / "s", ["a"]).put(["x"], [answer(1)])
    assert ScoreCache(tmp_path / "s", other).get(["x"]) == [None]
    assert ScoreCache(tmp_path / "s", ["a"]).get(["x"])[0].logits[0] == 1


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "s").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(StorageError, match="the cache of scores .* cannot be used .*delete it to start again"):
        ScoreCache(tmp_path / "s", ["a"])
