"""The one check command, for people and CI: `python -m tests.check`. Format, lint, types, import contracts.

Knows: which tools, in which order. Does not know: the tests (`pytest` runs those).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PYTHON = [sys.executable, "-m"]
CHECKS = {
    "format": [*PYTHON, "ruff", "format", "--check", "."],
    "lint": [*PYTHON, "ruff", "check", "."],
    "types": [*PYTHON, "mypy"],
    "imports": [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}


def main() -> int:
    """Runs every check, even after one has failed; gives the number of those that did."""
    failed = []
    for name, command in CHECKS.items():
        print(f"== {name}", flush=True)
        if subprocess.run(command, cwd=Path(__file__).parent.parent, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
