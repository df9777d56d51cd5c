"""Freed memory stays with the process once that is requested."""

from __future__ import annotations

import subprocess
import sys

import pytest

FREE_AND_ALLOCATE = """
import psutil, torch
from finetune.core.allocator import keep_freed_memory
process = psutil.Process()
def freed():
    tensors = [torch.ones(2**22) for _ in range(8)]  # 16 MB each
    held = process.memory_info().rss
    del tensors
    return held - process.memory_info().rss
assert freed() > 64 * 2**20
assert keep_freed_memory()
assert freed() < 2**20
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_kept_on_request() -> None:
    done = subprocess.run([sys.executable, "-c", FREE_AND_ALLOCATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
