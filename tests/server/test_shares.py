"""Fair parts of a capacity, whatever is taken and given back, in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from stingy_server.shares import Shares

OWNERS = "abcd"
CAPACITIES = st.integers(1, 400)


def fill(shares: Shares, *owners: str) -> dict[str, int]:
    """Let the owners take one each in turn until all are refused. Return what each has."""
    taken = dict.fromkeys(owners, 0)
    refused = False
    while not refused:
        refused = True
        for owner in owners:
            if shares.take(owner):
                taken[owner] += 1
                refused = False
    return taken


@given(CAPACITIES)
def test_S1_one_owner_gets_at_most_half(capacity: int) -> None:
    taken = fill(Shares(capacity), "a")
    assert taken["a"] == max(1, capacity // 2)


@given(CAPACITIES, st.integers(1, 4))
def test_S1_owners_in_turn_get_equal_parts(capacity: int, count: int) -> None:
    taken = fill(Shares(capacity), *OWNERS[:count])
    assert min(taken.values()) >= capacity // (count + 1)
    assert max(taken.values()) <= max(1, capacity // (count + 1) + 1)


@given(st.integers(2, 400))
def test_S1_owner_that_has_half_leaves_room_for_others(capacity: int) -> None:
    shares = Shares(capacity)
    fill(shares, "a")
    assert shares.take("b")


@given(st.integers(4, 400))
def test_S1_owner_that_came_first_shrinks_to_its_part(capacity: int) -> None:
    shares = Shares(capacity)
    taken = fill(shares, "a")
    taken["b"] = 0
    for _ in range(3 * capacity):  # the first owner ends one request and sends the next
        shares.give_back("a")
        taken["a"] -= 1
        for owner in ("b", "a"):
            taken[owner] += shares.take(owner)
    assert abs(taken["a"] - taken["b"]) <= 1
    assert taken["b"] >= capacity // 3


@given(CAPACITIES, st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(1, 200), st.booleans())))
def test_S1_capacity_is_never_exceeded(capacity: int, steps: list[tuple[str, int, bool]]) -> None:
    shares = Shares(capacity)
    given_out: list[tuple[str, int]] = []
    for owner, amount, back in steps:
        if back and given_out:
            shares.give_back(*given_out.pop())
        elif shares.take(owner, amount):
            given_out.append((owner, amount))
        assert shares.free == capacity - sum(amount for _, amount in given_out) >= 0
        for name in OWNERS:
            amounts = [amount for taker, amount in given_out if taker == name]
            assert len(amounts) <= 1 or 2 * sum(amounts) <= capacity
    for owner, amount in given_out:
        shares.give_back(owner, amount)
    assert shares.free == capacity
    assert shares.take("a", capacity)  # an item that fits free room is taken by an idle owner


def test_S1_larger_share_lets_one_owner_have_more() -> None:
    assert fill(Shares(400, share=3.0), "a") == {"a": 300}
