"""Every refusal that the server can send: fixed sentences that contain nothing of the input.

ServiceError(refusal)        raised anywhere while a request is handled
ConfigurationError(faults)   raised before the server listens; lists every fault
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import orjson
from starlette.responses import Response

JSON = "application/json"
ERROR_CODE = "X-Error-Code"  # the header with the code of a refusal
# The headers of every response: no browser may guess its type or keep it.
SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


@dataclass(frozen=True)
class Refusal:
    """One row of the error table. A client receives these fields and nothing else.

    Attributes:
        code: the name of the refusal, for programs.
        status: the HTTP status.
        message: the sentence for people, the same for every request.
        retry_after: seconds to wait before the next try; None if none are promised.
        spread: a random number of seconds, up to this one, is added to `retry_after` for each
            client. Otherwise clients refused at the same time would return at the same time.
    """

    code: str
    status: int
    message: str
    retry_after: int | None = None
    spread: int = 0


BAD_REQUEST = Refusal(
    "bad_request",
    400,
    "Expected a well-formed request, got a malformed one; check its headers and its body.",
)
FORM_REQUEST = Refusal(
    "bad_request",
    400,
    "Expected a request of the Open Inference Protocol, got a form; "
    "send JSON, or JSON with binary tensors.",
)
BASE64_REQUEST = Refusal(
    "bad_request",
    400,
    "Expected a request of the Open Inference Protocol, got base64 text; decode it, "
    "and send the bytes to /v1/predict/MODEL.",
)
IMAGE_REQUEST = Refusal(
    "bad_request",
    400,
    "Expected a request of the Open Inference Protocol, got an image file; "
    "send it to /v1/predict/MODEL.",
)
UNAUTHENTICATED = Refusal(
    "unauthenticated",
    401,
    "Expected a valid API key, got none; send it as Authorization: Bearer KEY.",
)
SUSPENDED = Refusal(
    "suspended", 403, "Expected an active key, got a suspended one; contact the operator."
)
NOT_FOUND = Refusal(
    "not_found", 404, "Expected an address of this server, got another; check the path."
)
UNKNOWN_MODEL = Refusal(
    "not_found",
    404,
    "Expected a model that is served here, got another; check its name and version.",
)
UNKNOWN_RPC = Refusal(
    "not_implemented", 501, "Expected an rpc of this server, got another; see its documentation."
)
METHOD_NOT_ALLOWED = Refusal(
    "method_not_allowed",
    405,
    "Expected a method of this address, got another; use GET or POST as documented.",
)
TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected a body of at most {limit:,} bytes, got a larger one; send fewer images at once.",
)
JSON_TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected at most 2,097,152 bytes, 299,593 lists and 64 objects of JSON, got more; "
    "send the images in binary.",
)
HEAD_TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected at most 2,097,152 bytes and 64 fields beside raw tensors, got more; "
    "send the images in raw_input_contents.",
)
TOO_MANY_IMAGES = Refusal(
    "too_large",
    413,
    "Expected at most {limit:,} images in a request, got more; send fewer images at once.",
)
UNSUPPORTED_IMAGE = Refusal(
    "unsupported_image",
    415,
    "Expected a JPEG, PNG or WebP image, got another format; convert it.",
)
ANIMATED_IMAGE = Refusal(
    "unsupported_image", 415, "Expected a still image, got an animated WebP; send one frame."
)
FORM_IMAGE = Refusal(
    "unsupported_image",
    415,
    "Expected the bytes of an image file as the body, got a form; "
    "send the file itself, as curl --data-binary @FILE does.",
)
BASE64_IMAGE = Refusal(
    "unsupported_image",
    415,
    "Expected the bytes of an image file, got base64 text; decode it, and send the bytes.",
)
JSON_IMAGE = Refusal(
    "unsupported_image",
    415,
    "Expected the bytes of an image file as the body, got JSON; "
    "send the file itself, or a tensor to /v2/models/MODEL/infer.",
)
TEXT_IMAGE = Refusal(
    "unsupported_image",
    415,
    "Expected the bytes of an image file, got a PNG without its line ends; "
    "send it with curl --data-binary, not -d.",
)
UNSUPPORTED_ENCODING = Refusal(
    "unsupported_encoding",
    415,
    "Expected an uncompressed body, got a compressed one; send it without Content-Encoding.",
)
BAD_IMAGE = Refusal(
    "bad_image",
    422,
    "Expected an image that decodes, got a damaged or unsupported one; "
    "save it again as a plain JPEG or PNG.",
)
DEEP_IMAGE = Refusal(
    "bad_image",
    422,
    "Expected an image of 8 bits a channel, got one of 16; convert it as for the training images.",
)
IMAGE_TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected an image of at most {limit:,} pixels, got a larger one; send a smaller one.",
)
PIXELS_TOO_MANY = Refusal(
    "too_large",
    413,
    "Expected at most {limit:,} pixels in all images of a request, got more in sum; "
    "send fewer images at once.",
)
SCALED_TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected images of at most {limit:,} pixels in sum when they are scaled for the model, "
    "got more; send fewer images at once, or images that are less narrow.",
)
LOSSLESS_TOO_LARGE = Refusal(
    "too_large",
    413,
    "Expected a lossless WebP of at most 524,288 pixels, got more; send it as PNG.",
)
UNKNOWN_DATATYPE = Refusal(
    "bad_request",
    400,
    "Expected image as integers, floats or BYTES, got another datatype; "
    "compare it with the table in the documentation.",
)
SHARED_MEMORY = Refusal(
    "bad_request",
    400,
    "Expected tensors in the body, got a region of shared memory; send and receive the data.",
)
NOT_CLASSIFIED = Refusal(
    "bad_request",
    400,
    "Expected a classification into 1 or more classes, of a policy with scores, got another; "
    "request plain indices.",
)
NO_FORM_FILE = Refusal(
    "bad_request",
    400,
    "Expected a form with one file in the field data, got another; send it as data=@FILE.",
)
BAD_TENSOR = Refusal(
    "bad_tensor",
    422,
    "Expected a tensor of the declared type, shape and range, got another; "
    "compare it with the model's metadata.",
)
INTEGER_RANGE = Refusal(
    "bad_tensor",
    422,
    "Expected integer pixels of 0 to 255, got others; convert them, or send floats of 0 to 1.",
)
FLOAT_RANGE = Refusal(
    "bad_tensor",
    422,
    "Expected float pixels of 0 to 1, got others; divide by 255, or send integers of 0 to 255.",
)
BAD_BASE64 = Refusal(
    "bad_tensor",
    422,
    "Expected image files in base64, got other text; encode each without line breaks.",
)
TIMED_OUT = Refusal(
    "timed_out",
    408,
    "Expected the whole body within the time limit, got a part; send fewer images at once.",
)
BUDGET_EXHAUSTED = Refusal(
    "budget_exhausted",
    429,
    "Expected a request within the query budget, got a larger one; "
    "send fewer images, or request a larger budget.",
)
RATE_LIMITED = Refusal(
    "rate_limited",
    429,
    "Expected queries within the rate of this key, got more; "
    "try again after the seconds in Retry-After.",
)
RATE_BELOW_REQUEST = Refusal(
    "too_large",
    413,
    "Expected at most {limit} images in a request, because the rate of this key grants no more, "
    "got more; send fewer images at once.",
)
REFUSED = Refusal(
    "refused",
    500,
    "Expected an answer that passes the safety checks, got one that fails and is withheld; "
    "report the request_id to the operator.",
)
INTERNAL = Refusal(
    "internal",
    500,
    "Expected an answer, got a fault of the server; report the request_id to the operator.",
)
UPSTREAM_FAILED = Refusal(
    "upstream_failed",
    502,
    "Expected a valid answer from the model server, got none; try again later.",
)
OVERLOADED = Refusal(
    "overloaded",
    503,
    "Expected a free place for the request, got none; try again after the seconds in Retry-After.",
    retry_after=1,
    spread=2,
)
DRAINING = Refusal(
    "draining",
    503,
    "Expected a running server, got one that is stopping; "
    "try again after the seconds in Retry-After.",
    retry_after=5,
)
STORE_UNAVAILABLE = Refusal(
    "store_unavailable",
    503,
    "Expected to record the request, got a fault of the store; "
    "try again after the seconds in Retry-After.",
    retry_after=5,
    spread=5,
)
DEADLINE = Refusal(
    "deadline", 504, "Expected an answer before the deadline, got none; send fewer images at once."
)
UPSTREAM_TIMEOUT = Refusal(
    "upstream_timeout",
    504,
    "Expected the model server to answer in time, got no answer; try again later.",
)


class ServiceError(Exception):
    """The end of a request with one of the refusals above.

    Raise it `from None`, because its cause must not leave the server.

    Args:
        retry_after: seconds, in place of those of the refusal.
        limit: a limit of the server or of the key, which the sentence names.
    """

    def __init__(
        self, refusal: Refusal, *, retry_after: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(refusal.code)
        if retry_after is not None:
            refusal = replace(refusal, retry_after=retry_after)
        if limit is not None:
            refusal = replace(refusal, message=refusal.message.format(limit=limit))
        self.refusal = refusal


class KeyChanged(ServiceError):
    """The end of a query whose key was changed after the process had looked it up.

    Nothing was charged. A route calls `refresh_key` and tries once more.
    """

    def __init__(self) -> None:
        super().__init__(OVERLOADED)


class ConfigurationError(Exception):
    """A configuration that cannot be served. `faults` lists every fault in it."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class ErrorForm(Enum):
    """The form of the body of a refusal, which clients of a protocol expect of its addresses."""

    STINGY = "stingy"  # {"error": {"code", "message", "request_id"}}
    OPEN_INFERENCE = "open_inference"  # {"error": message}
    TORCHSERVE = "torchserve"  # {"code": status, "type": code, "message": message}


def error_form(path: str) -> ErrorForm:
    """Return the form of refusals at an address."""
    if path.startswith("/v2/") or path == "/v2":
        return ErrorForm.OPEN_INFERENCE
    if path.startswith("/predictions/") or path == "/ping":
        return ErrorForm.TORCHSERVE
    return ErrorForm.STINGY


def error_body(refusal: Refusal, request_id: str, *, form: ErrorForm = ErrorForm.STINGY) -> bytes:
    """Return the body of a refusal."""
    code, message = refusal.code, refusal.message
    if form is ErrorForm.OPEN_INFERENCE:
        return orjson.dumps({"error": message})
    if form is ErrorForm.TORCHSERVE:
        return orjson.dumps({"code": refusal.status, "type": code, "message": message})
    return orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})


def retry_after_s(refusal: Refusal) -> int | None:
    """Return the seconds that one client waits before its next try; None if none are promised."""
    if refusal.retry_after is None:
        return None
    return refusal.retry_after + secrets.randbelow(refusal.spread + 1)


def error_response(
    refusal: Refusal, request_id: str, *, form: ErrorForm = ErrorForm.STINGY
) -> Response:
    """Return the response of a refusal. Its headers have the code in every form."""
    headers = {ERROR_CODE: refusal.code}
    if (seconds := retry_after_s(refusal)) is not None:
        headers["Retry-After"] = str(seconds)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(refusal, request_id, form=form)
    return Response(body, refusal.status, headers, media_type=JSON)
