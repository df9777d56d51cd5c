"""Training and prediction under `python -OO`, which strips docstrings and asserts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys

import service.estimators
from finetune.config.choices import TABLES, sentences
from finetune.config.loading import build
from finetune.run import train

assert False, "assertions are stripped too"
base, out = sys.argv[1:]
rows = [{"text": f"{['bad', 'good'][i % 2]} film {i}", "label": ["no", "yes"][i % 2]} for i in range(40)]
optim = {"epochs": 1, "batch_size": 8}
config = {"base": base, "out": out, "precision": "float32", "plots": False, "tfidf_baseline": False, "optim": optim}
result = train(build(config), rows)
print(len(sentences("losses")), sorted(result.metrics)[0])
"""


@pytest.mark.slow
def test_training_works_without_docstrings(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-OO", "-c", SCRIPT, str(tiny_base), str(tmp_path / "model")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[-2] == "14 accuracy"
