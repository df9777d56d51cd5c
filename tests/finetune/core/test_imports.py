"""What `finetune.core` and `finetune.config` import, so that the command line and the server start quickly."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import finetune

HEAVY = ("torch", "transformers", "datasets", "gradio")


def modules(package: str) -> list[str]:
    folder = Path(finetune.__file__).parent
    files = sorted((folder / package).rglob("*.py"))
    names = [".".join(("finetune", *file.relative_to(folder).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_no_module_of_core_and_config_imports_a_heavy_library() -> None:
    names = modules("core") + modules("config")
    assert {"finetune.core.tables.files", "finetune.core.tokenization", "finetune.config.reference"} <= set(names)
    assert all(find_spec(library) for library in HEAVY), "the libraries are installed"
    # one process for all: a module is named once its import brings a library in
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
