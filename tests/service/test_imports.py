"""What is imported before it is needed: help and settings come fast because little is."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "gradio", "pydantic", "fastapi", "pandas", "huggingface_hub")


def imported(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_packages_and_the_command_import_nothing_heavy():
    found = imported("import service, finetune, service.cli, service.errors, service.schema")
    assert not found.intersection(HEAVY)


def test_help_imports_nothing_heavy_and_lists_every_command():
    statement = """
from click.testing import CliRunner
from service.cli import rehead
text = CliRunner().invoke(rehead, ['--help']).output
assert all(name in text for name in ('predict', 'zero-shot', 'models', 'serve', 'finetune')), text
"""
    assert not imported(statement).intersection(HEAVY)


def test_settings_import_nothing_that_computes():
    assert not imported("import service.settings").intersection(HEAVY) - {"pydantic"}


def test_public_names_are_these():
    import service

    assert dir(service) == ["Classifier", "ZeroShotClassifier", "load"] and all(
        getattr(service, name) for name in dir(service)
    )


def test_choices_are_listed_and_a_wrong_run_is_refused_without_transformers(tmp_path):
    statement = f"""
from finetune.config import choices, loading
from finetune.core.errors import ConfigError, DataError
from finetune.prepare import prepare
assert all(choices.sentences(name) for name in choices.TABLES)
table = {{"data.train": [{{"path": {str(tmp_path / "missing.csv")!r}}}]}}
for settings, refusal in ((table, "there is no such file"), (table | {{"loss": "focl"}}, "did you mean 'focal'")):
    try:
        prepare(loading.load(base="topics", out="news", **settings), None, print)
    except (ConfigError, DataError) as error:
        assert refusal in str(error), error
    else:
        raise AssertionError("it was not refused")
"""
    assert not imported(statement).intersection({"transformers", "peft", "accelerate", "datasets"})
