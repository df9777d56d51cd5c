"""How `rehead serve` ends: as any program, except where a model call hangs."""

from __future__ import annotations

import subprocess
import sys

HUNG = """
import threading
from service.commands.serve import leave_hung_threads
threading.Thread(target=threading.Event().wait, name="rehead-batcher").start()
leave_hung_threads()
print("the interpreter would wait for that thread")
"""
STARTING = HUNG.replace("rehead-batcher", "rehead-preload")
ENDED = """
import atexit, threading
from service.commands.serve import leave_hung_threads
thread = threading.Thread(target=lambda: None, name="rehead-batcher")
thread.start()
atexit.register(print, "exit functions ran")
leave_hung_threads()
"""


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_hung_model_call_does_not_keep_the_process_and_is_logged():
    done = run(HUNG)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "exiting while a model call hangs (threads: rehead-batcher)\n"


def test_models_that_are_still_loading_do_not_keep_the_process():
    done = run(STARTING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_without_hung_threads_ends_as_any_other():
    done = run(ENDED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "exit functions ran\n", "")
