"""The page in this process: its routes, the API's sentences for images, and nothing on a disk."""

import tempfile
from pathlib import Path

import pytest

from image_bytes import RGB, encoded, photo, raw_png
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server.tryout import workbench
from try_pages import files_below, left, opened

pytestmark = pytest.mark.anyio

IMAGE = png(random_images(1)[0])
FAULTY = {
    "a cut PNG": IMAGE[:-9],
    "a flipped bit": IMAGE[:60] + bytes([IMAGE[60] ^ 1]) + IMAGE[61:],
    "no image": b"hello",
    "nothing": b"",
    "a GIF": encoded(photo(), "GIF"),
    "a bomb": raw_png(2**16, 2**15, b"", colour=RGB),
}


@pytest.mark.parametrize("kind", FAULTY)
async def test_F1_refused_image_gets_the_sentence_of_the_api(tmp_path: Path, kind: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    async with running(make_settings(tmp_path / "state", bundle)) as (client, _):
        sent = await client.post(
            "/v1/predict/digits", content=FAULTY[kind], headers={"Content-Type": "image/png"}
        )
    async with opened(bundle) as page:
        refused = await page.post("/images", FAULTY[kind])
    assert refused.status_code == sent.status_code
    assert refused.json() == {"error": sent.json()["error"]["message"]}


async def test_F2_image_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bundle = make_bundle(tmp_path / "bundle")
    before = files_below(tmp_path)
    image = png(random_images(1, size=200)[0], compress_level=0)
    async with opened(bundle) as page:
        folder = (await page.post("/folders")).json()["folder"]
        await page.view_of(image)
        assert (await page.post(f"/folders/{folder}?label=class 1", image)).is_success
        assert files_below(tmp_path) == before
    assert files_below(tmp_path) == before


async def test_V1_page_without_a_session_is_401(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle"), signed_in=False) as page:
        bodies = set()
        for method, path in (
            *(("GET", path) for path in ("/", "/page.js", "/page.css", "/icon.svg")),
            *(("GET", path) for path in ("/setup", "/view", "/nothing")),
            *(("POST", path) for path in ("/images", "/folders", "/folders/1")),
        ):
            response = await page.client.request(method, path)
            assert response.status_code == 401, path
            bodies.add(response.text)
        assert len(bodies) == 1


async def test_V2_page_under_another_host_is_403(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        for path in ("/", "/view", "/page.js"):
            response = await page.client.get(path, headers={"Host": "evil.test"})
            assert response.status_code == 403


async def test_V3_image_without_the_csrf_token_is_403(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        for path in ("/images", "/folders"):
            assert (await page.client.post(path, content=IMAGE)).status_code == 403
            assert (await page.post(path, IMAGE, Origin="http://evil.test")).status_code == 403
            assert (await page.post(path, IMAGE)).status_code == 200


async def test_page_and_its_files_have_their_types(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        types = {
            path: (await page.client.get(path)).headers["content-type"].partition(";")[0]
            for path in ("/", "/page.js", "/page.css", "/icon.svg")
        }
    assert [*types.values()] == ["text/html", "text/javascript", "text/css", "image/svg+xml"]


async def test_setup_names_the_bundle_and_what_can_be_chosen(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", policy="stingy:n=3")
    async with opened(bundle) as page:
        setup = (await page.client.get("/setup")).json()
    assert (setup["name"], setup["version"], len(setup["classes"])) == ("digits", "1", 10)
    assert (setup["policies"][0]["name"], setup["policies"][0]["n"]) == ("stingy", 3)
    assert setup["tiers"] == ["full", "partner", "order"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"n": "11"}, "expected"),
        ({"policy": "<b>"}, "unknown policy '<b>'"),
        ({"tier": "gold"}, "expected one of the tiers full, partner, order"),
    ],
)
async def test_faulty_choice_is_400_with_a_sentence(
    tmp_path: Path, query: dict[str, str], text: str
) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        response = await page.client.get("/view", params=query)
    assert response.status_code == 400
    assert text in response.json()["error"]


@pytest.mark.parametrize("number", ["0", "99", "x", "-1", "9" * 40, "²"])
async def test_unknown_image_or_folder_shows_nothing(tmp_path: Path, number: str) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        view = await page.view(image=number, folder=number)
    assert (view["image"], view["folder"]) == (None, None)


async def test_model_whose_logits_are_nan_is_refused_by_the_gate(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", factory="sample_networks:Fragile")
    image = random_images(1)[0].copy()
    image[0, 0, 0] = 254
    async with opened(bundle) as page:
        number = (await page.post("/images", png(image))).json()["image"]
        response = await page.client.get("/view", params={"image": number})
    assert (response.status_code, "finite" in response.json()["error"]) == (422, True)


async def test_folder_counts_images_and_shows_their_use(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        images = [png(each) for each in random_images(6)]
        tops = []
        for image in images:
            (top,) = left(await page.view_of(image, policy="label"), "label")
            tops.append(top)
        folder = (await page.post("/folders")).json()["folder"]
        for place, (image, top) in enumerate(zip(images, tops, strict=True)):
            label = top if place < 3 else "class 0" if top != "class 0" else "class 1"
            counted = await page.post(f"/folders/{folder}?label={label}", image)
            assert counted.json() == {"images": place + 1}
        use = (await page.view(folder=folder, policy="label"))["folder"]
    assert {name: fields["top1"] for name, fields in use.items()} == {
        "model": 50.0,
        "policy": 50.0,
        "tier": 50.0,
        "label": 50.0,
    }


async def test_unknown_label_or_folder_is_404(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        folder = (await page.post("/folders")).json()["folder"]
        for path in (f"/folders/{folder}?label=cat", "/folders/99?label=class 1", "/folders/x"):
            assert (await page.post(path, IMAGE)).status_code == 404


async def test_full_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "MAX_NUMBERS", 25)
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        folder = (await page.post("/folders")).json()["folder"]
        path = f"/folders/{folder}?label=class 1"
        statuses = [(await page.post(path, IMAGE)).status_code for _ in range(3)]
    assert statuses == [200, 200, 413]


async def test_latest_images_alone_are_kept(tmp_path: Path) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        numbers = [
            (await page.post("/images", IMAGE)).json()["image"]
            for _ in range(workbench.MAX_IMAGES + 1)
        ]
        found = [(await page.view(image=number))["image"] is not None for number in numbers]
    assert found == [False, *[True] * workbench.MAX_IMAGES]


async def test_strict_setting_pads_a_pass_as_the_server_does(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", factory="sample_networks:convolutional")
    settings = make_settings(tmp_path / "state", bundle, strict=True, batch_size=8)
    async with running(settings) as (client, _):
        sent = await client.post(
            "/v1/predict/digits", content=IMAGE, headers={"Content-Type": "image/png"}
        )
    async with opened(bundle, strict=True, batch_size=8) as page:
        view = await page.view_of(IMAGE)
    answered = sent.json()["answers"][0]["classes"]
    assert left(view, "policy") == {each["label"] for each in answered}
