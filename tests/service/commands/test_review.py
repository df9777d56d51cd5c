"""`rehead review` in a pseudo-terminal, with real keys; and what it does without a terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from finetune.core.tables.files import read_table
from service.cli import rehead
from tests.support import waiting

pty = pytest.importorskip("pty")

WORDS = ("great", "good", "awful", "bad")
READY_S, AGAIN_S = 0.3, 8.0
"""Seconds from a row on the screen to the first key, which is dropped before the terminal reads single keys, and from
one try to the next."""

ROW = r"answered[^\n]*; row \d+"
COMMAND = (sys.executable, "-m", "service.cli", "review", "texts.csv")


class Terminal:
    """A command in a pseudo-terminal, in a folder."""

    def __init__(self, folder, *arguments):
        self._master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
        self._process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        self._read = b""

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;]*m", "", self._read.decode(errors="replace")).replace("\r\n", "\n")

    def until(self, pattern, count=1, pressing=""):
        """Return once a pattern has been printed so many times; a key is pressed again if nothing follows.

        Keys that are pressed before a row is shown, or while the terminal is set to read single keys, are dropped.
        """
        end, again = time.monotonic() + waiting.DEADLINE_S, time.monotonic() + READY_S
        while len(re.findall(pattern, self.text)) < count:
            assert time.monotonic() < end, f"{pattern!r} was not printed:\n{self.text}"
            if pressing and time.monotonic() > again:
                self.press(pressing)
                again = time.monotonic() + AGAIN_S
            if select.select([self._master], [], [], 0.5)[0]:
                try:
                    self._read += os.read(self._master, 65536)
                except OSError:  # the command has ended
                    assert len(re.findall(pattern, self.text)) >= count, self.text

    def press(self, keys):
        os.write(self._master, keys.encode())

    def answer(self, key, number):
        """Press a key, and wait until the row of this number is shown, counted from 1."""
        self.until(ROW, number, key)

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self.close()

    def close(self):
        code = self._process.wait()
        os.close(self._master)
        return code


@pytest.fixture
def folder(tmp_path, tiny_models):
    (tmp_path / "models").symlink_to(tiny_models)
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f"a {WORDS[n % 4]} film {n}\n" for n in range(80)))
    return tmp_path


def run(*arguments):
    """Run the command on texts.csv of the working directory, in this process and without a terminal."""
    return CliRunner().invoke(rehead, ["review", "texts.csv", *arguments])


def lines_of(folder, name="texts-answers.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_keys_answer_undo_and_add_labels_and_the_same_command_continues(folder, monkeypatch):
    terminal = Terminal(folder, "--model", "sentiment", "--reviewer", "Ann", "--retrain-every", "0")
    terminal.until(ROW)
    terminal.answer("1", 2)
    terminal.answer("u", 3)
    terminal.answer("2", 4)
    terminal.answer("n", 5)
    terminal.answer("s", 6)
    terminal.until("  label: ", 1, "/")
    terminal.press("unsure\n")
    terminal.until("is a new label: press y to add it")
    terminal.answer("y", 7)
    terminal.until("  label: ", 2, "/")
    terminal.press("uns\n")
    terminal.until(ROW, 8)
    terminal.until("the same command continues", 1, "q")
    assert terminal.close() == 0
    lines = lines_of(folder)
    assert [line["action"] for line in lines] == ["label", "undo", "label", "none_of_these", "skip", "label", "label"]
    shown = [label["label"] for label in lines[0]["shown"]["labels"]]
    assert lines[0]["label"] == shown[0] and lines[2]["label"] == shown[1] and lines[2]["row"] == lines[0]["row"]
    assert [line["label"] for line in lines[-2:]] == ["unsure", "unsure"]
    scores = [label["score"] for line in lines if not line["held_out"] for label in line["shown"]["labels"][:2]]
    assert scores and all(0 <= score <= 1 for score in scores if score is not None)

    again = Terminal(folder, "--model", "sentiment", "--reviewer", "Ann", "--retrain-every", "0")
    again.until("4 of 100 answered")
    again.until("unsure")
    again.answer("1", 2)
    again.kill()
    assert len(lines_of(folder)) == 8 and lines_of(folder)[:7] == lines

    monkeypatch.chdir(folder)
    reported = run("--report")
    assert reported.exit_code == 0 and "5 answered, 4 labeled" in reported.stdout
    assert run("--labeled", "labeled.jsonl").exit_code == 0
    rows = list(read_table(folder / "labeled.jsonl").rows)
    assert {row["text"] for row in rows} == {
        line["text"] for line in lines_of(folder)[2:] if line["action"] == "label" and not line["held_out"]
    }


def test_without_a_terminal_rows_are_listed_and_a_review_says_what_to_do(folder, monkeypatch):
    monkeypatch.chdir(folder)
    refused = run("--model", "sentiment").exception
    assert refused.exit_code == 2
    assert "needs a terminal" in str(refused) and "--list -o rows.csv" in str(refused)
    listed = run("--model", "sentiment", "--list", "--rows", "10", "--strategy", "margin", "-o", "rows.csv")
    assert listed.exit_code == 0, listed.stderr
    rows = list(read_table(folder / "rows.csv").rows)
    assert len(rows) == 10
    assert all(row["text"] == f"a {WORDS[(int(row['row']) - 1) % 4]} film {int(row['row']) - 1}" for row in rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    assert sorted(path.name for path in folder.iterdir()) == ["models", "rows.csv", "texts.csv"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--list",), "name one with --model"),
        (("--list", "--model", "topics"), "is a zero-shot model"),
        (("--list", "--model", "sentiment", "--strategy", "margins"), "did you mean 'margin'"),
        (("--list", "--model", "sentiment", "--strategy", "disagreement"), "name one with --teacher"),
        (("--list", "--strategy", "label_errors"), "name the column that holds the label with --label"),
        (("--list", "--model", "sentiment", "--label", "text"), "goes with --strategy label_errors"),
        (("--report",), "there are no answers yet"),
        (("--model", "no_such"), "no model 'no_such'"),  # and not that there is no terminal
        (("--model", "sentiment", "--text", "no_such"), "no_such"),
        (("--list", "--model", "sentiment", "-o", "texts.csv"), "texts.csv exists already"),
    ],
)
def test_what_cannot_be_reviewed_gets_one_sentence(folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    refused = run(*arguments)
    assert refused.exception.exit_code == 2 and sentence in str(refused.exception)
    assert sorted(path.name for path in folder.iterdir()) == ["models", "texts.csv"]
