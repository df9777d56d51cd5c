"""The answers of reviewers: appended by several processes, cut by SIGKILL, taken back."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import BadRequest
from service.review.answers import AnswersFile, Shown, decided
from service.review.table import hash_of, review_table

SHOWN = Shown("news", "auto", (("sport", 0.7), ("trade", 0.3)))
APPENDING = """
import sys
from pathlib import Path
from service.review.answers import AnswersFile, Shown
file = AnswersFile(Path(sys.argv[1]))
for row in range(int(sys.argv[3])):
    text = f"text {row}"
    file.append(sys.argv[2], "label", row=row, text_sha256=str(row), text=text, held_out=False,
                shown=Shown("m", "auto", ()), label="sport")
    print(row, flush=True)
"""


def append(file, reviewer="Ann", action="label", row=1, label="sport", held_out=False, **more):
    text = f"text {row}"
    label = label if action == "label" else None
    return file.append(
        reviewer,
        action,
        row=row,
        text_sha256=hash_of(text),
        text=text,
        held_out=held_out,
        shown=SHOWN,
        label=label,
        **more,
    )


def appending(file, reviewer, count):
    command = [sys.executable, "-c", APPENDING, str(file), reviewer, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.fast
def test_a_line_holds_time_reviewer_row_and_what_was_shown(tmp_path):
    file = AnswersFile(tmp_path / "answers.jsonl")
    append(file, row=3)
    [line] = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert line["time"].endswith("+00:00") and line["reviewer"] == "Ann" and line["action"] == "label"
    assert (line["row"], line["text"], line["text_sha256"]) == (3, "text 3", hash_of("text 3"))
    assert line["shown"]["model"] == "news" and line["shown"]["labels"][0] == {"label": "sport", "score": 0.7}
    assert line["held_out"] is False and "undoes" not in line
    assert stat.S_IMODE((tmp_path / "answers.jsonl").stat().st_mode) == 0o600


def test_two_processes_that_append_500_answers_each_lose_none(tmp_path):
    path = tmp_path / "answers.jsonl"
    children = [appending(path, name, 500) for name in ("Ann", "Bob")]
    for child in children:
        child.communicate()
        assert child.returncode == 0
    file = AnswersFile(path)
    assert file.unreadable == 0 and file.cut_bytes == 0
    rows = sorted((answer.reviewer, answer.row) for answer in file.current())
    assert rows == [(name, row) for name in ("Ann", "Bob") for row in range(500)]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_sigkill_leaves_every_answer_that_was_confirmed(tmp_path):
    path = tmp_path / "answers.jsonl"
    child = appending(path, "Ann", 100_000)
    confirmed = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    confirmed += [int(line) for line in child.stdout.read().splitlines()]
    child.stdout.close()
    file = AnswersFile(path)
    assert {answer.row for answer in file.current()} >= set(confirmed)
    append(file, row=7)  # nothing that the killed process held is in the way
    assert len(AnswersFile(path).current()) == len(file.current())


@pytest.mark.fast
def test_half_a_line_is_left_out_and_counted_and_the_next_answer_is_whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    append(AnswersFile(path), row=1)
    whole = path.read_bytes()
    append(AnswersFile(path), row=2)
    path.write_bytes(path.read_bytes()[:-20])
    file = AnswersFile(path)
    assert [answer.row for answer in file.current()] == [1] and file.cut_bytes > 0
    append(file, row=3)
    again = AnswersFile(path)
    assert [answer.row for answer in again.current()] == [1, 3] and again.unreadable == 1
    assert path.read_bytes().startswith(whole)


@pytest.mark.fast
def test_undo_takes_back_one_answer_and_removes_no_line(tmp_path):
    file = AnswersFile(tmp_path / "answers.jsonl")
    append(file, row=1)
    wrong = append(file, row=2, label="trade")
    append(file, "Bob", row=3)
    assert file.last_of("Ann") == wrong
    append(file, action="undo", row=2, undoes=wrong.id)
    assert [(answer.reviewer, answer.row) for answer in file.current()] == [("Ann", 1), ("Bob", 3)]
    assert file.last_of("Ann").row == 1
    append(file, row=2, label="sport")
    assert {answer.row: answer.label for answer in file.current()} == {1: "sport", 2: "sport", 3: "sport"}
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 5


@pytest.mark.fast
def test_the_answers_of_another_process_are_read(tmp_path):
    first, second = AnswersFile(tmp_path / "answers.jsonl"), AnswersFile(tmp_path / "answers.jsonl")
    append(first, row=1)
    assert second.refresh() and [answer.row for answer in second.current()] == [1]
    assert not second.refresh()


@pytest.mark.fast
def test_a_row_whose_reviewers_disagree_is_undecided(tmp_path):
    file = AnswersFile(tmp_path / "answers.jsonl")
    append(file, "Ann", row=1)
    append(file, "Bob", row=1)
    append(file, "Ann", row=2)
    append(file, "Bob", row=2, action="none_of_these")
    append(file, "Ann", row=3, action="skip")
    assert [answer.row for answer in decided(file.current()).values()] == [1]


@pytest.mark.fast
def test_a_file_of_another_table_is_refused(tmp_path):
    table = tmp_path / "texts.csv"
    table.write_text("text\ntext 1\nanother\n")
    file = AnswersFile(tmp_path / "answers.jsonl")
    append(file, row=1)
    file.check(review_table(table))
    table.write_text("text\nnew row\ntext 1\n")
    file.check(review_table(table))  # rows may be added
    table.write_text("text\nsomething else\n")
    with pytest.raises(BadRequest, match=r"about another table: .* no row with the text of its row 1 \('text 1'\)"):
        file.check(review_table(table))


@pytest.mark.fast
@pytest.mark.parametrize("line", ['{"text": "a", "label": "b"}', "7", '{"action": "label"}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(BadRequest, match="is no file of answers"):
        AnswersFile(tmp_path / "rows.jsonl")
    with pytest.raises(BadRequest, match=r"should end in \.jsonl"):
        AnswersFile(Path(tmp_path / "answers.csv"))
