"""TorchServe's own routes, so that its clients only change the address.

An answer has the form of TorchServe's image classifier: labels with probabilities, best first. It
has the classes that leave, and no others.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.form_data import FORM, is_form, read_form_file
from stingy_server.codec.images import Pixels, decode
from stingy_server.codec.oip_answers import Encoded
from stingy_server.edge.descriptions import server_unready
from stingy_server.edge.hot_path import Handler, Query, add_to_document
from stingy_server.edge.openapi import (
    IMAGE_TYPES,
    PING,
    PROBABILITIES,
    TorchServeRefused,
    refusals,
)
from stingy_server.errors import JSON
from stingy_server.queries.answering import answer_batch

router = APIRouter(responses=refusals(TorchServeRefused), tags=["TorchServe"])


@router.get("/ping", responses=PING)
@router.head("/ping", response_class=Response, responses=PING)
async def ping(request: Request) -> Response:
    """Say whether the server is ready, as TorchServe's probe does."""
    refusal = server_unready(request.app.state.service)
    healthy = {"status": "Healthy" if refusal is None else "Unhealthy"}
    status = 200 if refusal is None else refusal.status
    return Response(orjson.dumps(healthy), status, media_type=JSON)


async def predictions(query: Query) -> Encoded:
    """Classify one image, sent as the body or as the file `data` of a form."""
    answer = await answer_batch(
        query.service,
        query.record,
        query.endpoint,
        partial(_decode_file, query),
        images=1,
        tier=query.tier,
    )
    labels = query.endpoint.manifest.classes
    named = zip(answer.indices[0].tolist(), _probabilities(answer), strict=True)
    document = {labels[index]: probability for index, probability in named}
    return Encoded(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), None)


async def _decode_file(query: Query) -> Pixels:
    """Decode the image of a request. Its key has been charged before."""
    file = query.body
    content_type = next((value for name, value in query.headers if name == b"content-type"), b"")
    if is_form(content_type):
        file = read_form_file(file, content_type)
        if query.record.place is not None:
            query.record.place.grow(len(file))  # the file is in memory beside its form
    return await decode(
        [file],
        query.endpoint.manifest.preprocessing,
        pool=query.service.decoders,
        caller=query.record.caller,
        max_pixels=query.service.settings.max_pixels,
    )


def _probabilities(answer: SparseLogits) -> npt.NDArray[np.float32]:
    """Return the probability of each class that leaves, float32 [N], from what leaves alone.

    They sum to 1 over these classes. An answer without such scores says which class is the best
    one, and that is all that its probabilities say: 1 for the best class, 0 for the others.
    """
    if answer.scores is None or answer.form is ScoreForm.RANK:
        best = np.zeros(answer.indices.shape[1], np.float32)
        best[0] = 1.0
        return best
    scores: npt.NDArray[np.float32] = answer.scores[0].numpy()
    if answer.form is ScoreForm.PROB:
        return scores
    # Log-probabilities sum to 1 already, so only their rounding to the grid is evened out.
    exponentials: npt.NDArray[np.float32] = np.exp(scores - scores.max())
    shares: npt.NDArray[np.float32] = exponentials / exponentials.sum()
    return shares


MODEL = "/predictions/{model}"
VERSION = "/predictions/{model}/{version}"
HOT_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", MODEL): predictions,
    ("POST", VERSION): predictions,
    ("PUT", MODEL): predictions,  # as curl -T, the first example of TorchServe's documentation
    ("PUT", VERSION): predictions,
}
add_to_document(router, HOT_ROUTES, *IMAGE_TYPES, FORM, responses=PROBABILITIES)
