"""Tests, and the processes that they start, cannot reach addresses beyond loopback."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest


def test_a_test_cannot_reach_the_network():
    with pytest.raises(OSError, match="only loopback is allowed"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="only loopback is allowed"):
        socket.getaddrinfo("example.org", 443)


def test_a_process_that_a_test_starts_cannot_reach_the_network():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "only loopback is allowed" in done.stderr


def test_the_hub_is_offline():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
