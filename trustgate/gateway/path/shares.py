"""Sharing what there is a fixed amount of (requests in flight, bytes in memory) between tenants.

Owns the rule: a tenant may hold up to four times of what is free. So one tenant alone gets four fifths of everything,
two that want all of it get four ninths each, and there is always something left for one that holds nothing yet,
without reserving anything for tenants that are not there. Source of the rule: A. K. Choudhury and E. L. Hahne,
"Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.
"""

from __future__ import annotations

from typing import Final

#: How many times of what is free one tenant may hold.
FREE_MULTIPLE: Final = 4


class Shares:
    """Amounts held by tenants out of ``most``. Changing ``most`` takes nothing away from those that hold something."""

    __slots__ = ("_held", "most", "total")

    def __init__(self, most: int) -> None:
        self.most = most
        #: What is held in all.
        self.total = 0
        self._held: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        return self.total >= self.most

    def has_room_for_all(self, coming: int = 0) -> bool:
        """Returns whether every tenant may hold one more, whatever it holds: less than its share of all is held.

        ``coming``: what will be held besides.
        """
        return (self.total + coming) * (FREE_MULTIPLE + 1) < self.most * FREE_MULTIPLE

    def held(self, tenant_id: str) -> int:
        """Returns what a tenant holds."""
        return self._held.get(tenant_id, 0)

    def has_room(self, tenant_id: str, amount: int, coming: int = 0, coming_of: int = 0) -> bool:
        """Returns whether a tenant may hold ``amount`` more.

        One that holds nothing may have all that is free; for the others the rule counts what would be free before.
        ``coming`` and ``coming_of``: what will be held besides before it, in all and by this tenant.
        """
        free = self.most - self.total - coming
        if amount > free:
            return False
        held = self._held.get(tenant_id, 0) + coming_of
        return held == 0 or held + amount <= FREE_MULTIPLE * free

    def take_if_room(self, tenant_id: str, amount: int) -> bool:
        """Hold ``amount`` more where the tenant may (``has_room``). Returns whether it does."""
        free = self.most - self.total
        if amount > free:
            return False
        held = self._held.get(tenant_id, 0)
        if held and held + amount > FREE_MULTIPLE * free:
            return False
        self.total += amount
        self._held[tenant_id] = held + amount
        return True

    def take(self, tenant_id: str, amount: int) -> None:
        """Hold ``amount`` more, whether there is room or not."""
        self.total += amount
        self._held[tenant_id] = self._held.get(tenant_id, 0) + amount

    def give_back(self, tenant_id: str, amount: int) -> None:
        """Hold ``amount`` less."""
        self.total -= amount
        left = self._held[tenant_id] - amount
        if left:
            self._held[tenant_id] = left
        else:
            del self._held[tenant_id]
