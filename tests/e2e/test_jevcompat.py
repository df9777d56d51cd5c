"""The independent conformance suite of `/v1/systemone`, the PyPI package jevcompat, against a real server.

REHEAD_JEVCOMPAT_PYTHON names an interpreter of an environment of its own with jevcompat; without it the tests are
skipped.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from checkpoints import save_classifier

RUN = "import sys; from jevcompat.cli import main; sys.exit(main())"
KEY = "0123456789abcdef0123"
AUTHENTICATION = {True: {"auth.ignored-when-off"}, False: {"auth.bearer", "auth.missing", "auth.invalid"}}
"""Requirements that do not apply with keys on, and with keys off."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a zero-shot model that reads the suite's longest options, spelled letter by letter."""
    folder = tmp_path_factory.mktemp("models")
    settings = {"task": "multiclass", "activation": "softmax", "hypothesis_template": "This is {}."}
    settings |= {"attention": "shared_text", "scorer": "nli"}
    labels = ["entailment", "neutral", "contradiction"]
    save_classifier(folder / "topics", labels, seed=2, settings=settings, positions=512)
    return folder


@pytest.mark.parametrize("keys", [False, True], ids=["without-keys", "with-keys"])
def test_the_conformance_suite_finds_every_requirement_kept(start_server, models, tmp_path, monkeypatch, keys):
    python = os.environ.get("REHEAD_JEVCOMPAT_PYTHON") or pytest.skip("REHEAD_JEVCOMPAT_PYTHON is not set")
    monkeypatch.setenv("REHEAD_API_KEYS", f"team={KEY}" if keys else "")
    server = start_server(models, "--max-tokens", "1000000")
    command = [python, "-c", RUN, "test", server.address, "--json", str(tmp_path / "report.json")]
    try:
        done = subprocess.run(
            [*command, "--key", KEY] if keys else command,
            env=os.environ | {"PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    other = {one["id"]: (one["status"], one["findings"]) for one in results if one["status"] != "pass"}
    assert set(other) == AUTHENTICATION[keys], other
    assert {one["level"] for one in results} == {"MUST", "SHOULD"} and len(results) > 40
