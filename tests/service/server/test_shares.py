"""How a bounded resource is divided among clients."""

from __future__ import annotations

import pytest

from service.server.shares import Shares

pytestmark = pytest.mark.fast


def filled(shares, clients):
    """What each client holds after all have taken as much as they may, in turns."""
    while takers := [client for client in clients if shares.fits(client)]:
        for client in takers:
            if shares.fits(client):
                shares.take(client)
    return [shares.held(client) for client in clients]


@pytest.mark.parametrize(("total", "clients", "each"), [(128, 1, 96), (8, 1, 6), (1, 1, 1), (70, 2, 30), (100, 3, 30)])
def test_clients_hold_equal_parts_and_leave_room_for_one_more(total, clients, each):
    shares = Shares(total)
    assert filled(shares, [f"c{number}" for number in range(clients)]) == [each] * clients
    assert total == 1 or shares.fits("newcomer")


def test_what_is_given_back_is_there_again():
    shares = Shares(10)
    shares.take("a", 7)
    assert not shares.fits("a", 3) and shares.fits("b", 3) and not shares.fits("b", 4)
    shares.give_back("a", 7)
    assert shares.used == 0 and shares.held("a") == 0 and shares.fits("b", 7)
