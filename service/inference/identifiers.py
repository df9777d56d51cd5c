"""Label names written as identifiers, such as `book_flight` or `sci.space`, as words for the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNDERSCORES = re.compile(r"\w*[^\W_]_+[^\W_]\w*")
DOTS = re.compile(r"[a-z][a-z0-9-]+(?:\.[a-z][a-z0-9-]+)+")
LOWER_CAMEL = re.compile(r"[a-z]{3,}[a-z0-9]*(?:[A-Z][a-z0-9]+)+")
UPPER_CAMEL = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

LAST_PARTS = frozenset(
    [
        "js",
        "net",
        "com",
        "org",
        "io",
        "ai",
        "py",
        "py3",
        "ts",
        "rs",
        "go",
        "cpp",
        "md",
        "txt",
        "exe",
        "app",
        "dev",
        "edu",
        "gov",
        "info",
    ]
)
"""Last parts of dotted names of products and addresses, such as `node.js` and `example.com`."""

PARTS_OF_A_SCHEME = 3
"""Parts of one name, such as `AddToPlaylist`, from which on names such as `BookFlight` are no names of products."""


def spelled_out(names: Sequence[str]) -> tuple[str, ...]:
    """Return label names with identifiers as words; all others are returned as they are.

    Identifiers are `book_flight`, `sci.space`, `bookFlight`, and, if a label of the set has three parts or more
    (`AddToPlaylist`), `BookFlight`; else YouTube and GitHub would be taken apart.
    """
    is_scheme = any(UPPER_CAMEL.fullmatch(name) and len(HUMP.split(name)) >= PARTS_OF_A_SCHEME for name in names)
    return tuple(_words(name, is_scheme) for name in names)


def _words(name: str, is_scheme: bool) -> str:
    if UNDERSCORES.fullmatch(name):
        return " ".join(part for part in name.split("_") if part)
    if DOTS.fullmatch(name) and name.rpartition(".")[2] not in LAST_PARTS:
        return name.replace(".", " ")
    if LOWER_CAMEL.fullmatch(name) or (is_scheme and UPPER_CAMEL.fullmatch(name)):
        return " ".join(HUMP.split(name)).lower()
    return name
