"""Numbers as text for reports."""

from __future__ import annotations


def figure(value: float, digits: int = 3) -> str:
    """Return a number with `digits` decimals, or a very small or large one with `digits` significant digits: 0.912,
    2.51e-07, 1.23e+06."""
    size = abs(value)
    fits = value == 0 or 10.0**-digits <= size < 10.0 ** (digits + 2)
    return f"{value:.{digits}f}" if fits else f"{value:.{digits}g}"
