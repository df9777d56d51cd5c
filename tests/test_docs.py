"""The pages in docs/: every block of Python runs, in the order in which it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    import transformers

    monkeypatch.setattr(transformers, "TFPreTrainedModel", None, raising=False)  # so that what the page sets goes again
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    found = blocks("python.md", "python")
    assert len(found) == 9
    for number, block in enumerate(found, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), space)
    printed = capsys.readouterr().out
    assert "'predicted_label': 'positive'" in printed and "['text', 'label', 'labels', 'scores']" in printed
    assert space["answer"]["labels"][0] == "sports" and space["found"]["accuracy"] == 1.0
    assert (tmp_path / "models" / "desk" / "README.md").is_file()
