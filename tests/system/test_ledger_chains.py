"""Row K2 with real servers: two that write at once, of which one is killed under load."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx

from ledgers import chain_faults, present_heads
from serving import make_bundle, make_key, png, random_images, served
from stingy_server import Database, Keys
from stingy_server.maintenance.check import check_state
from stingy_server.store.ledger import Ledger

IMAGE = png(random_images(1)[0])


def test_K2_killed_server_beside_another_leaves_chains(tmp_path: Path, store: str | None) -> None:
    state, bundle = tmp_path / "state", make_bundle(tmp_path / "b")
    key = make_key(state, store=store)
    environment = {} if store is None else {"STINGY_STORE": store}
    with (
        served(bundle, state=state, **environment) as (doomed, process),
        served(bundle, state=state, **environment) as (other, _),
        ThreadPoolExecutor(8) as threads,
    ):

        def query(number: int) -> int:
            answered = 0
            with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
                for turn in range(20):
                    if number == 0 and turn == 10:
                        process.kill()
                    url = doomed if number % 2 == 0 else other
                    try:
                        response = client.post(f"{url}/v1/predict/digits", content=IMAGE)
                    except httpx.TransportError:
                        break
                    answered += response.status_code == 200
            return answered

        answered = sum(threads.map(query, range(8)))
        assert chain_faults(state, store, against=present_heads(state, store)) == []
    with closing(Database(state, store=store)) as database:
        recorded = sum(entry.answered for _, entry in Ledger(database).entries())
        ((_, budget),) = Keys(database).all()
    assert 80 <= answered <= recorded <= budget.used
    assert len(present_heads(state, store)) == 2
    assert check_state(state, store).faults == []
