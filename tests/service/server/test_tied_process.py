"""A child process ends with its parent, even where that is killed before the child has imported anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from service.server import tied_process

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a child inherits no pipe by number there")

PARENT = """
import subprocess, sys, time
from service.server import tied_process
child = tied_process.start(["-c", sys.argv[1]])
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "child", ["import time; time.sleep(600)", "import time; print('runs', flush=True); time.sleep(600)"]
)
def test_a_child_ends_when_its_parent_is_killed(child):
    with subprocess.Popen([sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"started\n"
        if "runs" in child:
            assert parent.stdout.readline() == b"runs\n"
        parent.kill()
        assert parent.stdout.read() in (b"", b"runs\n")  # ends once no process has the pipe any more


def test_a_child_that_does_not_heed_sigterm_ends_after_a_grace(monkeypatch):
    program = PARENT.replace("child = ", "tied_process.GRACE_S = 0.1\nchild = ")
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('runs', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program, deaf], stdout=subprocess.PIPE) as parent:
        assert {parent.stdout.readline(), parent.stdout.readline()} == {b"started\n", b"runs\n"}
        parent.kill()
        assert parent.stdout.read() == b""


def test_arguments_and_exit_code_are_those_of_the_program():
    program = "import sys; print(sys.argv); sys.exit(3)"
    child = tied_process.start(["-c", program, "a", "b"], stdout=subprocess.PIPE)
    assert child.communicate()[0].split(b"[")[1] == b"'-c', 'a', 'b']\n" and child.returncode == 3
    child = tied_process.start(["-m", "calendar", "2024", "2"], stdout=subprocess.PIPE)
    assert b"February 2024" in child.communicate()[0] and child.returncode == 0
    child = tied_process.start(["-c", "import time; time.sleep(600)"])
    child.send_signal(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
