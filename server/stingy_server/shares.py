"""Fair parts of a bounded resource, such as places, bytes or queued work.

The rule is that of dynamic thresholds in switches with shared memory (Choudhury and Hahne, 1998):
an owner may have at most `share` times what is free. With a share of 1, one owner alone gets half,
two get a third each, and n get a part of 1 / (n + 1) each. So some room is always free for the next
owner, without a list of owners and without reserved parts.
"""


class Shares:
    """A capacity that owners take in parts. It belongs to one thread, such as an event loop's.

    Args:
        capacity: the amount that all owners together may have, at least 1.
        share: the most that one owner may have, as a multiple of what is free then, > 0.

    Attributes:
        free: the amount that nobody has.
    """

    __slots__ = ("_amounts", "_share", "free")

    def __init__(self, capacity: int, *, share: float = 1.0) -> None:
        self.free = capacity
        self._share = share
        self._amounts: dict[str, int] = {}

    def take(self, owner: str, amount: int = 1) -> bool:
        """Give an owner this amount, and return true; or change nothing, and return false.

        An owner that has nothing gets any amount that is free, so that a large request is served
        when there is room for it.

        Args:
            owner: the name of the owner, such as a key's id.
            amount: at least 1.
        """
        current = self._amounts.get(owner, 0)
        left = self.free - amount
        if left < 0 or (current and current + amount > self._share * left):
            return False
        self._amounts[owner] = current + amount
        self.free = left
        return True

    def give_back(self, owner: str, amount: int = 1) -> None:
        """Take back an amount that `take` gave to this owner."""
        left = self._amounts[owner] - amount
        if left:
            self._amounts[owner] = left
        else:
            del self._amounts[owner]
        self.free += amount
