"""The status of a refusal because there is no room: 503, or 429 where the settings say so."""

from pathlib import Path

import numpy as np
import pytest

from infer_requests import IMAGES, code, infer, used
from serving import make_bundle, make_settings, running
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [503, 429])
async def test_overload_has_the_status_of_the_settings(tmp_path: Path, status: int) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), queue_images=8, overload_status=status
    )
    async with running(settings) as (client, app):
        response = await infer(client, np.concatenate([IMAGES[:8], IMAGES[:8]]))
        assert code(response) == (status, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert await used(client) == 0
        (refused,) = [
            entry
            for _, entry in Ledger(app.state.service.database).entries()
            if entry.event == "overloaded"
        ]
        assert refused.status == status


async def test_other_refusals_keep_their_status_beside_429(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), overload_status=429)
    async with running(settings) as (client, app):
        app.state.service.draining = True
        assert code(await infer(client, IMAGES)) == (503, "draining")
