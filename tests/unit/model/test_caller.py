"""Who asks: what tells one caller from another."""

from __future__ import annotations

import pytest

from headgate.model.caller import network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.77", "192.0.2.0/24"), ("2001:db8:1:2::3", "2001:db8:1::/48"), ("fe80::1%eth0", "fe80::/48"),
     ("::ffff:192.0.2.77", "192.0.2.0/24"), ("", ""), ("localhost", ""), ("192.0.2.77:80", "")],
)  # fmt: skip
def test_a_caller_is_known_by_its_network_alone(address: str, network: str) -> None:
    assert network_of(address) == network
