"""What each host on the network has here: connections, calls in flight, and a budget that refills."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET_PER_S = 20_000
"""In costs of frames.COSTS: as many calls a second as no server of ours can answer, or 200 cancelled ones."""
MAX_CONNECTIONS = 64
MAX_CONNECTIONS_OF_HOST = 32
MAX_CALLS_OF_HOST = 16
MAX_HOSTS = 64


@dataclass(slots=True)
class Host:
    """One address."""

    budget: float
    refilled_at: float
    connections: int = 0
    calls: int = 0
    handshakes: int = 0

    def spend(self, cost: int, now: float) -> bool:
        """Take it from the budget, if there is so much; ``now`` in monotonic seconds."""
        self._refill(now)
        if self.budget < cost:
            return False
        self.budget -= cost
        return True

    def owe(self, cost: int, now: float) -> None:
        """Take what was spent already, down to a second's worth below nothing."""
        self._refill(now)
        self.budget = max(self.budget - cost, -BUDGET_PER_S)

    def in_debt(self, now: float) -> bool:
        """Whether more was spent than there was; never where nothing is owed."""
        if self.budget >= 0:
            return False
        self._refill(now)
        return self.budget < 0

    def _refill(self, now: float) -> None:
        self.budget = min(BUDGET_PER_S, self.budget + (now - self.refilled_at) * BUDGET_PER_S)
        self.refilled_at = now


class Hosts:
    """All of them; forgets a host that has no connection and a full budget."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self.connections = 0

    def enter(self, address: str, now: float) -> Host | None:
        """A connection comes; None where it may not."""
        if self.connections >= MAX_CONNECTIONS:
            return None
        host = self._hosts.get(address)
        if host is None:
            if len(self._hosts) >= MAX_HOSTS:
                self._forget(now)
            if len(self._hosts) >= MAX_HOSTS:
                return None
            host = self._hosts[address] = Host(BUDGET_PER_S, now)
        if host.connections >= MAX_CONNECTIONS_OF_HOST:
            return None
        host.connections += 1
        self.connections += 1
        return host

    def leave(self, host: Host) -> None:
        host.connections -= 1
        self.connections -= 1

    def _forget(self, now: float) -> None:
        for address, host in tuple(self._hosts.items()):
            if not host.connections and host.spend(0, now) and host.budget >= BUDGET_PER_S:
                del self._hosts[address]
