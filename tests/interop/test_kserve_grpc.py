"""KServe's client of gRPC, which knows nothing of Stingy, gets the answers of our own.

It has a process without Triton's client: no process takes the generated code of both.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from grpc_answers import IMAGES, Expected, grpc_answers

pytestmark = [
    pytest.mark.anyio,
    # The generated code of this client is older than the library that reads it.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    with grpc_answers(tmp_path_factory.mktemp("interop")) as server:
        yield server


async def test_kserves_client_gets_the_same_classes(expected: Expected) -> None:
    kserve = pytest.importorskip("kserve", reason="needs kserve: make test-interop")
    client = kserve.InferenceGRPCClient(url=expected.address)
    headers = [*expected.headers.items()]
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("digits", headers=headers)
    for binary in (True, False):
        image = kserve.InferInput("image", list(IMAGES.shape), "UINT8")
        image.set_data_from_numpy(IMAGES, binary_data=binary)
        request = kserve.InferRequest(model_name="digits", infer_inputs=[image])
        result = await client.infer(request, headers=headers)
        answer = {output.name: output.as_numpy() for output in result.outputs}
        assert answer["indices"].tolist() == expected.indices
        assert np.isfinite(answer["scores"]).all()
    await client.close()
