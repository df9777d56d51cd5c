"""Child processes that end when this process does, however early and however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

GRACE_S = 20.0
"""Seconds that a child has after SIGTERM before it ends at once."""

# the first lines of the child, before it imports anything of ours: the pipe ends when the parent does
STARTER = """
import os, signal, sys, threading

def watch(pipe, seconds):
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(seconds)
    os._exit(143)

pipe, seconds, kind, what = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
threading.Thread(target=watch, args=(pipe, seconds), daemon=True).start()
del sys.argv[1:5]
if kind == "-m":
    import runpy
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    exec(what)
"""


def start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start Python in a process that receives SIGTERM when this one has ended.

    Args:
        arguments: those of the interpreter: `-m` and a module, or `-c` and a program, and theirs.
        options: those of `subprocess.Popen`.
    """
    if os.name == "nt":  # a child inherits no pipe by number there
        return subprocess.Popen([sys.executable, *arguments], **options)
    read, write = os.pipe()
    try:
        command = [sys.executable, "-c", STARTER, str(read), str(GRACE_S), *arguments]
        child = subprocess.Popen(command, pass_fds=(read,), **options)
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    weakref.finalize(child, os.close, write)
    return child
