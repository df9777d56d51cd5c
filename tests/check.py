"""The one check command, for people and CI: `python -m tests.check`. Format, lint, types, imports, words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = [sys.executable, "-m"]
WORDS = ROOT / "tests" / "private_words.txt"
READ_BY_PEOPLE = ("*.py", "*.md", "*.toml", "*.yaml", "*.conf", "*.service", "*Dockerfile*", ".ci/*")
NOT_OURS_TO_CHANGE = ("CHANGELOG.md", "models/*/README.md", "tests/private_words.txt")
OLD_SETTINGS = (
    "finetune/config/renamed.py",
    "tests/finetune/config/test_renamed.py",
    "tests/e2e/test_model_folder_of_0_1_0.py",
    "tests/fixtures/*",
)
"""Files with the names that settings had in 0.1.0."""
CHECKS = {
    "format": [*PYTHON, "ruff", "format", "--check", "."],
    "lint": [*PYTHON, "ruff", "check", "."],
    "types": [*PYTHON, "mypy"],
    "imports": [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}
SPELLING = ["codespell", "--builtin", "en-GB_to_en-US", "--ignore-words-list", "cancelled,cancelling"]


def texts() -> list[Path]:
    """Return the files of the repository that people read, without those whose words are fixed."""
    command = ["git", "ls-files", *READ_BY_PEOPLE, *(f":!{name}" for name in (*NOT_OURS_TO_CHANGE, *OLD_SETTINGS))]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names]


def private_words(files: list[Path]) -> list[str]:
    """Return `file:line: word` for each private word of tests/private_words.txt in these files."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    return [
        f"{file.relative_to(ROOT)}:{number}: {match.group()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


def main() -> int:
    """Run every check, even after one has failed; return the number of those that did."""
    failed = []
    files = texts()
    for name, command in {**CHECKS, "spelling": [*SPELLING, *map(str, files)]}.items():
        print(f"== {name}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print("== words", flush=True)
    if words := private_words(files):
        print("\n".join(words))
        failed.append("words")
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
