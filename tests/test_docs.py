"""The pages in docs/: every block of code runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def without_figures(text: str) -> str:
    """Return a text with its figures masked, as they differ by table."""
    return re.sub(r"\d[\d.e+-]*", "#", text)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # on 16 rows
def test_the_python_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    import transformers

    monkeypatch.setattr(transformers, "TFPreTrainedModel", None, raising=False)  # undo what the page sets
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    examples = blocks("python.md", "python")
    assert len(examples) == 12
    for number, block in enumerate(examples, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "'predicted_label': 'positive'" in printed and "['text', 'label', 'labels', 'scores']" in printed
    assert names["answer"]["labels"][0] == "sports" and names["metrics"]["accuracy"] == 1.0
    assert (tmp_path / "models" / "news" / "README.md").is_file()


@pytest.mark.slow
def test_the_training_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    import shlex

    from click.testing import CliRunner

    from finetune.core.tables.files import write_table
    from service.cli import rehead

    monkeypatch.chdir(tmp_path)
    words = {"location": "Where is", "human": "Who saw", "numeric": "How far is"}
    rows = [
        {"text": f"{start} number {number}?", "label": label} for number in range(120) for label, start in words.items()
    ]
    write_table("questions.csv", rows)
    [search] = blocks("training.md", "yaml")
    (tmp_path / "search.yaml").write_text(search)
    printed = {}
    for block in blocks("training.md", "sh"):
        for command in map(shlex.split, block.splitlines()):
            done = CliRunner().invoke(rehead, command[1:])
            assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
            printed[command[-1] if command[-2] == "--out" else " ".join(command[1:3])] = done.output
    assert "training 1,155 of 22,566,531 weights: head 1,155" in printed["models/frozen"]
    warnings = re.findall(r"^warning: .*$", (DOCS / "training.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(warnings) == 6
    for warning in warnings:
        assert without_figures(warning) in without_figures("".join(printed.values())), warning
    assert "[binary, multiclass, multi_label]" in printed["choices losses"]
    assert "best of 2 trials" in printed["search search.yaml"]
    [block] = blocks("training.md", "python")
    exec(compile(block, "docs/training.md", "exec"), {})
    traced = capsys.readouterr().out
    assert traced.startswith("update 5: loss ") and traced.count("gradient ") == 8


@pytest.mark.slow
def test_the_fine_tuning_page_runs_as_it_is_written(tmp_path, monkeypatch):
    import shlex

    from click.testing import CliRunner

    from finetune.core.tables.files import write_table
    from service.cli import rehead

    monkeypatch.chdir(tmp_path)
    kinds = {
        "location": "Where is the town of {}?",
        "human": "Who was the first to see {}?",
        "numeric": "How far away is {}?",
    }
    names = ["Rome", "Lima", "Cork", "Bern", "Oslo", "Kyiv", "Faro", "Bari", "Graz", "Metz", "Lund", "Vigo"]
    rows = [{"text": text.format(name), "label": label} for name in names for label, text in kinds.items()]
    write_table("questions.csv", rows)
    jokes = [{"text": f"What did {name} say to the bar?", "label": "joke"} for name in names]
    write_table("more_questions.csv", [*rows, *jokes])
    write_table(
        "held.csv",
        [
            {"text": row["text"].replace("town", "city"), "label": row["label"], "source": "ab"[i % 2]}
            for i, row in enumerate(rows)
        ],
    )
    commands = [shlex.split(line) for block in blocks("finetune.md", "sh") for line in block.splitlines()]
    assert len(commands) == 8 and all(command[0] == "rehead" for command in commands)
    printed = []
    for command in commands:
        done = CliRunner().invoke(rehead, command[1:])
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
        printed.append(done.output)
    assert "# near duplicates in evaluation:" in printed[0]
    assert (tmp_path / "models" / "questions" / "report" / "lengths.png").is_file()
    assert (tmp_path / "reports" / "questions" / "confusion_matrix.png").is_file() and "source a (18 rows)" in printed[
        2
    ]
    assert "difference from questions" in printed[4] and printed[6].count("\n") >= 3
    assert "kept for 3 labels: human, location, numeric; new: joke" in printed[7]


def test_the_language_page_prints_what_it_shows():
    import shlex

    from click.testing import CliRunner

    from service.cli import rehead

    commands, _ = blocks("languages.md", "sh")
    printed = [CliRunner().invoke(rehead, shlex.split(line)[1:]).stdout for line in commands.splitlines()]
    best_labels = [output.splitlines()[1].split()[0] for output in printed]
    page = (DOCS / "languages.md").read_text(encoding="utf-8")
    shown = re.search(r"^```\n(Das Parlament.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert best_labels == ["politics", "michezo"]
    lines = shown[1].splitlines()
    texts = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[number + 1].split()[0] for number in texts] == best_labels


def test_the_page_on_labels_prints_what_it_shows(tmp_path, monkeypatch):
    import json
    import shlex

    from click.testing import CliRunner

    from service.cli import rehead

    monkeypatch.chdir(tmp_path)
    [labels] = blocks("labels.md", "yaml")
    (tmp_path / "labels.yaml").write_text(labels)
    commands = [shlex.split(block)[1:] for block in blocks("labels.md", "sh")]
    assert len(commands) == 2
    scored, in_windows = (CliRunner().invoke(rehead, command) for command in commands)
    page = (DOCS / "labels.md").read_text(encoding="utf-8")
    shown = re.search(r"^```\n(I cannot sign in.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert shown is not None and scored.exit_code == 0
    printed, lines = scored.stdout.splitlines(), shown[1].splitlines()
    assert printed[0] == lines[0] and printed[1].rsplit(None, 2)[0] == lines[1].rsplit(None, 2)[0]
    assert sorted(line[:21] for line in printed) == sorted(line[:21] for line in lines)
    assert json.loads(in_windows.stdout)[0]["window"] == {"start": 0, "end": 27}
