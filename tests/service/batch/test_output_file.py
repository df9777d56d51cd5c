"""The output of a scoring run: a full disk, two runs at once, a run that was killed."""

from __future__ import annotations

import gzip
import subprocess
import sys

import pytest

from finetune.core.file_lock import lock_file
from finetune.core.tables.files import write_table
from service.batch.batch_scorer import RowScorer
from service.batch.output_file import locked
from service.batch.score_table import write_scored
from service.batch.scoring_task import ScoringTask
from service.errors import BadRequest
from service.schema import Answer

TASK = ScoringTask(("long", "short"), "multiclass", "test")


def answers(inputs):
    return [Answer(("long", "short"), (0.75, 0.25), False) for _ in inputs]


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "in.csv", [{"text": f"text {n}"} for n in range(3)])
    return tmp_path / "in.csv"


def scored(source, out, task=TASK, answer=answers, **options):
    return write_scored(source, out, RowScorer(answer, task), **options)


FULL = """
import json, os, resource, sys
from pathlib import Path
from service.batch.batch_scorer import RowScorer
from service.batch.score_table import write_scored
from service.batch.scoring_task import ScoringTask
from service.batch.output_file import DiskFull
from service.schema import Answer

def answers(inputs):
    return [Answer(("long", "short"), (0.75, 0.25), False) for _ in inputs]

_, source, out, most = sys.argv
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), resource.RLIM_INFINITY))
try:
    task = ScoringTask(("long", "short"), "multiclass", "test", chunk_rows=50)
    done = write_scored(Path(source), Path(out), RowScorer(answers, task))
except DiskFull as error:
    print(error)
    sys.exit(error.exit_code)
print(done.resumed_after)
"""


@pytest.mark.parametrize("into", [".csv", ".jsonl", ".parquet", ".csv.gz", ".xlsx"])
def test_a_full_disk_is_reported_and_the_same_call_resumes(tmp_path, into):
    source, out = tmp_path / "in.parquet", tmp_path / f"out{into}"
    words = "".join(chr(97 + number * number % 26) for number in range(400))
    texts = [f"{number} {words[number % 397 :]} {number * 7919}" for number in range(400)]
    write_table(source, [{"text": text} for text in texts])
    scored(source, tmp_path / f"whole{into}", ScoringTask(TASK.labels, TASK.task, "test", chunk_rows=50))
    whole = (tmp_path / f"whole{into}").read_bytes()
    size = len(gzip.decompress(whole) if into.endswith(".gz") else whole)  # packed once it is complete

    def run(most):
        command = [sys.executable, "-c", FULL, str(source), str(out), str(most)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    full = run(size // 2)
    assert full.returncode == 1 and full.stderr == "" and not out.exists()
    assert f"{out} could not be written (File too large): about " in full.stdout
    assert "more bytes are needed, and " in full.stdout and "ulimit -f" in full.stdout
    assert "rows that are done are kept, and the same command resumes after them" in full.stdout
    assert not (tmp_path / f".out{into}.lock").exists()
    again = run(10 * size + 10_000)
    assert again.returncode == 0 and int(again.stdout) >= 50, again.stderr
    assert out.read_bytes() == (tmp_path / f"whole{into}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", out.name, f"whole{into}"]
    tiny = run(100)
    assert tiny.returncode != 0 and "exists already" in tiny.stderr


def test_a_disk_that_is_full_at_the_first_rows_leaves_nothing_behind(tmp_path):
    write_table(tmp_path / "in.csv", [{"text": f"text {n}"} for n in range(100)])
    command = [sys.executable, "-c", FULL, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "100"]
    full = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (
        full.returncode == 1
        and "Free some space or raise" in full.stdout
        and "then run the same command again" in full.stdout
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_lock_is_taken_before_the_output_is_checked(table, tmp_path):
    out = tmp_path / "out.csv"

    def meanwhile(inputs):  # the output is not there yet, and will be
        with pytest.raises(BadRequest, match="another run is writing"):
            scored(table, out)
        return answers(inputs)

    scored(table, out, answer=meanwhile)
    with pytest.raises(BadRequest, match="exists already"):
        scored(table, out)
    with locked(out), pytest.raises(BadRequest, match="another run is writing"):
        scored(table, out)  # and not "exists already": what is there may be about to be replaced
    assert not lock_file(out).exists()


def test_a_run_that_waited_for_a_removed_lock_takes_the_new_one(tmp_path):
    out = tmp_path / "out.csv"
    with locked(out):
        stale = lock_file(out).open("ab")
        assert lock_file(out).exists()
    assert not lock_file(out).exists()
    with locked(out), stale, pytest.raises(BadRequest, match="another run"), locked(out):
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    out = tmp_path / "out.csv"
    hold = """
import os, pathlib, sys
from service.batch.output_file import locked
lock = locked(pathlib.Path(sys.argv[1]))
lock.__enter__()
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", hold, str(out)], timeout=60)
    assert lock_file(out).exists()
    with locked(out):
        pass
    assert not lock_file(out).exists()
