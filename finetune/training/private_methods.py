"""Checks that the private methods of transformers that a subclass overrides, or calls, are there.

An override of a method that a newer release has renamed is never called, and what it was for is silently lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)
Method = TypeVar("Method", bound=Callable[..., Any])

MARK = "__overrides_private__"


def overrides_private(method: Method) -> Method:
    """Mark a method as an override of a private method of the base class."""
    setattr(method, MARK, True)
    return method


def check_private_methods(*, calls: Sequence[str] = ()) -> Callable[[Class], Class]:
    """Return a class decorator that requires of the base class every method that is marked as overridden.

    Args:
        calls: private methods of the base class that are called.

    Raises:
        ImportError: the base class lacks one; names it and the installed release.
    """

    def check(cls: Class) -> Class:
        marked = [name for name, member in vars(cls).items() if getattr(member, MARK, False)]
        missing = [name for name in (*marked, *calls) if not callable(getattr(super(cls, cls), name, None))]
        if missing:
            raise ImportError(
                f"transformers {_installed()} has no {cls.__mro__[1].__name__}.{missing[0]}, which {cls.__name__} "
                "overrides or calls. Install another release of transformers (see pyproject.toml for the tested ones)"
            )
        return cls

    return check


def _installed() -> str:
    from importlib.metadata import version

    return version("transformers")
