"""The folder of uploads goes with its process, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, signal
from service.ui import upload_folder
upload_folder.new_folder(b"a table")
print(upload_folder.folder(), flush=True)
sys.stdin.read()
if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def server(tmp_path, *arguments):
    """Start a process with a folder of uploads; return both."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)},
    )
    return process, tmp_path / os.path.basename(process.stdout.readline().strip())  # noqa: PTH119 (a string)


@pytest.mark.skipif(os.name == "nt", reason="there is no lock")
def test_a_folder_whose_process_was_killed_is_deleted_by_the_next_one(tmp_path):
    killed, abandoned = server(tmp_path, "die")
    running, kept = server(tmp_path)
    (tmp_path / "rehead-page-of-an-older-release").mkdir()
    killed.communicate()
    assert abandoned.is_dir() and kept.is_dir()
    third, last = server(tmp_path)
    assert not abandoned.exists() and kept.is_dir() and last.is_dir()
    for process in (running, third):
        process.communicate()
    assert [file.name for file in tmp_path.iterdir()] == ["rehead-page-of-an-older-release"]
