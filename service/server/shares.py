"""How a bounded resource is divided among clients that do not know of each other."""

from __future__ import annotations

from collections import Counter

RATIO = 3
"""How many times as much as is left one client may hold: alone three quarters, beside another one three sevenths."""


def fits(held: float, left: float, amount: float = 1) -> bool:
    """Return whether a client that holds `held` may take `amount` of the `left`."""
    return amount <= left and held + amount <= RATIO * left


class Shares:
    """What clients hold of one resource. Some of it is always left for a client that holds nothing.

    Attributes:
        total: how much there is.
        used: how much is held.
    """

    def __init__(self, total: float) -> None:
        self.total, self.used = total, 0.0
        self._held: Counter[str] = Counter()

    def held(self, client: str) -> float:
        """Return how much a client holds."""
        return self._held.get(client, 0)

    def fits(self, client: str, amount: float = 1) -> bool:
        """Return whether a client may take this much more."""
        return fits(self.held(client), self.total - self.used, amount)

    def below_share(self, client: str) -> bool:
        """Return whether a client would hold no more than the largest share, with one more in place of another's."""
        return self.held(client) + 1 <= self.total * RATIO / (RATIO + 1)

    def take(self, client: str, amount: float = 1) -> None:
        """Record that a client takes this much, which `fits` has allowed."""
        self._held[client] += amount  # type: ignore[assignment]
        self.used += amount

    def give_back(self, client: str, amount: float = 1) -> None:
        """Record that a client returns this much."""
        self.used -= amount
        self._held[client] -= amount  # type: ignore[assignment]
        if self._held[client] <= 0:
            del self._held[client]
