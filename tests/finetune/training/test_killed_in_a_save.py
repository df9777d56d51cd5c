"""A run that is killed while it writes a checkpoint goes on, and makes the model of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.training import TrainConfig
from finetune.run import train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")]

# counts every file that is opened for writing inside the work folder, and dies at the one of the given number
KILLED = """
import json, os, signal, sys
from finetune.config import loading
import finetune.run
count = 0

def watch(event, arguments):
    global count
    if event not in ("open", "os.rename") or ".killed.run" not in str(arguments[0]):
        return
    if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax")):
        return
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

content = json.loads(sys.argv[1])
sys.addaudithook(watch)
finetune.run.train(loading.build(content), json.loads(sys.argv[3]))
print("writes", count)
"""


def run(content, rows, place):
    """Train in a process that dies at a write; return its exit code and what it printed."""
    command = [sys.executable, "-c", KILLED, json.dumps(content), str(place), json.dumps(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout


def test_a_run_that_is_killed_inside_a_save_resumes_to_the_same_model(tiny_base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{('good', 'bad')[n % 2]} film {n}", "label": ("yes", "no")[n % 2]} for n in range(48)]
    content = {
        "base": str(tiny_base),
        "out": str(tmp_path / "killed"),
        "optim": {"epochs": 3, "batch_size": 8},
        "report": False,
    }
    content = {key: value for key, value in content.items() if key in TrainConfig.model_fields}
    whole = content | {"out": str(tmp_path / "whole")}
    train(TrainConfig(**whole), rows)
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    killed = 0
    for place in (3, 7, 11, 16, 22):
        code, _ = run(content | {"resume": killed > 0}, rows, place)
        if code == 0:
            break
        assert code == -signal.SIGKILL and not (tmp_path / "killed").exists()
        killed += 1
    if not (tmp_path / "killed").exists():
        assert run(content | {"resume": True}, rows, 0)[0] == 0
    assert killed >= 3 and (tmp_path / "killed" / "model.safetensors").read_bytes() == weights
