"""Keys that end while they are in use: revoked, rotated or expired, here or in another process."""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from infer_requests import code, tensor
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Keys
from stingy_server.store.key import Caller
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
IMAGES = random_images(8)
POSTS = {
    "/v1/predict/digits": png(IMAGES[0]),
    "/v2/models/digits/infer": orjson.dumps(tensor(IMAGES)),
}


async def slow_body(content: bytes, meanwhile: Callable[[], object]) -> AsyncIterator[bytes]:
    """Yield a body, and call `meanwhile` before its last byte."""
    yield content[:-1]
    meanwhile()
    yield content[-1:]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("end", [Keys.revoke, Keys.rotate])
async def test_A1_key_revoked_before_the_end_of_its_body_is_a_401(
    tmp_path: Path,
    end: Callable[[Keys, str], object],
    path: str,
) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        keys = app.state.service.keys
        ((key, _),) = keys.all()
        response = await client.post(
            path, content=slow_body(POSTS[path], lambda: end(keys, key.id))
        )
        assert code(response) == (401, "unauthenticated")
        assert keys.budget(key).used == 0
        (entry,) = [e for _, e in Ledger(app.state.service.database).entries() if e.key == key.id]
        assert (entry.event, entry.answered) == ("unauthenticated", 0)


async def test_key_is_looked_up_once_until_keys_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        keys: Keys = app.state.service.keys
        looked_up: list[str] = []
        authenticate = keys.authenticate

        def counting(text: str) -> Caller | None:
            looked_up.append(text)
            return authenticate(text)

        monkeypatch.setattr(keys, "authenticate", counting)
        monkeypatch.setattr(app.state.service.key_lookup, "_find", counting)
        other, _ = keys.create("other", budget=1)
        counts = []
        for change in (None, None, other.id, None):
            if change is not None:
                assert keys.revoke(change)
            response = await client.post("/v2/models/digits/infer", json=tensor(IMAGES))
            assert response.status_code == 200
            counts.append(len(looked_up))
    assert counts == [1, 1, 2, 2]


@pytest.mark.parametrize("end", [Keys.revoke, Keys.rotate])
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/predict/digits", POSTS["/v1/predict/digits"]),
        ("/v1/predict/digits", b"not an image"),
        ("/v1/predict/unknown", b"refused before its charge"),
        ("/v2/models/digits/infer", b"{"),
    ],
    ids=["charged", "not decoded", "unknown model", "no head"],
)
async def test_A1_known_key_is_a_401_once_another_process_ends_it(
    tmp_path: Path, end: Callable[[Keys, str], object], path: str, content: bytes
) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        ((key, _),) = app.state.service.keys.all()
        picture = POSTS["/v1/predict/digits"]
        assert (await client.post("/v1/predict/digits", content=picture)).status_code == 200
        with closing(app.state.service.database.reopen()) as other_process:
            end(Keys(other_process), key.id)
        response = await client.post(path, content=content)
        assert code(response) == (401, "unauthenticated")
        assert code(await client.get("/v1/usage")) == (401, "unauthenticated")
        assert app.state.service.keys.budget(key).used == 1


async def test_A1_known_key_is_a_401_once_it_expires(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, _):
        expires = datetime.now(UTC) + timedelta(seconds=3)
        client.headers["Authorization"] = f"Bearer {make_key(configured.state, expires=expires)}"
        statuses = set[int]()
        while 401 not in statuses and datetime.now(UTC) < expires + timedelta(seconds=10):
            statuses.add(
                (await client.post("/v1/predict/digits", content=png(IMAGES[0]))).status_code
            )
        assert statuses == {200, 401}
