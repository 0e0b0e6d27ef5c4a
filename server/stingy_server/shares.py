"""Shares: room that many owners use, in which none can take what the others need.

After "Dynamic queue length thresholds for shared-memory packet switches" (Choudhury and Hahne,
IEEE/ACM Transactions on Networking 1998): an owner may hold `share` times what is free when it
takes. With a share of 1.0 one owner alone gets half of the room, two get a third each, and so on,
each rounded up to its last request.
"""


class Shares:
    """The amounts that owners hold of one capacity. It has no lock.

    Args:
        capacity: the amount of all owners together.
        share: what an owner may hold, as a multiple of what is free.
    """

    __slots__ = ("_free", "_held", "_share")

    def __init__(self, capacity: int, *, share: float) -> None:
        self._free = capacity
        self._share = share
        self._held: dict[str, int] = {}

    def take(self, owner: str, amount: int) -> bool:
        """Take an amount for an owner, or return False if it exceeds the owner's share."""
        free = self._free
        held = self._held.get(owner, 0) + amount
        if amount > free or held > self._share * free:
            return False
        self._free = free - amount
        self._held[owner] = held
        return True

    def give_back(self, owner: str, amount: int) -> None:
        """Return an amount that the owner took."""
        self._free += amount
        held = self._held[owner] - amount
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]
