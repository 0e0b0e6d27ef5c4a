"""Nothing leaves beside the answer over gRPC: twins send the same bytes, options change none."""

from pathlib import Path

import pytest

from rpc_calls import infer_message, read_answer, rpc_running
from serving import make_bundle, make_settings, random_images
from stingy_server.rpc.messages import MESSAGES, SERVICE
from stingy_server.rpc.methods import RPCS

pytestmark = pytest.mark.anyio
IMAGES = random_images(4)
N = 3
NAMED = ("ModelReady", "ModelMetadata", "ModelConfig")


async def bytes_sent(folder: Path, *, variant: int) -> list[object]:
    """Call every rpc, and return the bodies, the statuses and the metadata without the id."""
    bundle = make_bundle(
        folder / "b",
        factory="sample_networks:Twin",
        policy=f"stingy:n={N}",
        shared=N,
        variant=variant,
    )
    sent: list[object] = []
    async with rpc_running(make_settings(folder / "s", bundle), budget=40) as (rpc, _, _):
        for name in NAMED:
            message = MESSAGES[f"{name}Request"](name="digits").SerializeToString()
            sent.append((await rpc.call(name, message)).body)
        for name in ("ServerMetadata", "RepositoryIndex"):
            sent.append((await rpc.call(name)).body)
        for message in (
            infer_message(IMAGES),
            infer_message(IMAGES, raw=False),
            infer_message(IMAGES, outputs=("logits",)),
            infer_message(IMAGES, outputs={"scores": 10}, raw=False),
            infer_message(IMAGES, outputs=("features",)),
            infer_message(IMAGES, shape=[1, 1, 1, 3]),
            infer_message(random_images(64)),
            b"\xff",
        ):
            ended = await rpc.call("ModelInfer", message)
            metadata = {k: v for k, v in ended.metadata.items() if k != "x-request-id"}
            sent.append((ended.status, ended.text, ended.body, metadata))
    return sent


async def test_L1_twins_send_the_same_bytes_over_grpc(tmp_path: Path) -> None:
    sent = [await bytes_sent(tmp_path / str(variant), variant=variant) for variant in (1, 2)]
    assert sent[0] == sent[1]
    assert sum(isinstance(each, tuple) and each[0] == "OK" for each in sent[0]) == 4


async def test_L9_no_parameter_over_grpc_changes_the_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), strict=True)
    async with rpc_running(settings) as (rpc, _, _):
        plain = (await rpc.call("ModelInfer", infer_message(IMAGES))).body
        for name in ("top_k", "temperature", "debug", "policy", "priority", "binary_data_output"):
            request = MESSAGES["ModelInferRequest"].FromString(infer_message(IMAGES))
            for parameters in (request.parameters, request.inputs[0].parameters):
                parameters[name].int64_param = 9
            ended = await rpc.call("ModelInfer", request.SerializeToString(), (name, "1"))
            assert ended.body == plain, name
        assert list(read_answer(plain)) == ["indices", "scores"]


def test_L10_rpcs_are_those_of_the_list() -> None:
    listed = (Path(__file__).parent / "rpcs.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(path.removeprefix(f"/{SERVICE}/") for path in RPCS) == listed
