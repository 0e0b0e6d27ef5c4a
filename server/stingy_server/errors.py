"""Every refusal the server can utter: one fixed sentence a code, never a word of the input.

ServiceError(code, status, message)   raised anywhere on the way of a request
ConfigurationError(faults)            raised before listening, lists every fault
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson
from starlette.responses import Response

JSON = "application/json"


@dataclass(frozen=True)
class Refusal:
    """One row of the table of errors: what a client may be told, and nothing else.

    `retry_after` is in seconds, and each who is refused is told up to `spread` more of them, by
    chance: else all who are refused at once would be back at once.
    """

    code: str
    status: int
    message: str
    retry_after: int | None = None
    spread: int = 0


BAD_REQUEST = Refusal("bad_request", 400, "The request could not be understood.")
UNAUTHENTICATED = Refusal("unauthenticated", 401, "A valid API key is required.")
SUSPENDED = Refusal("suspended", 403, "This key is suspended; ask whoever gave it to you.")
NOT_FOUND = Refusal("not_found", 404, "There is nothing under this address.")
UNKNOWN_MODEL = Refusal("not_found", 404, "No model of this name and version is served here.")
METHOD_NOT_ALLOWED = Refusal("method_not_allowed", 405, "This address does not take this method.")
TOO_LARGE = Refusal("too_large", 413, "The request is larger than this server accepts.")
UNSUPPORTED_IMAGE = Refusal("unsupported_image", 415, "Only JPEG and PNG images are accepted.")
UNSUPPORTED_ENCODING = Refusal(
    "unsupported_encoding", 415, "Compressed request bodies are not accepted."
)
BAD_IMAGE = Refusal("bad_image", 422, "The image could not be read.")
IMAGE_TOO_LARGE = Refusal("too_large", 413, "The image has more pixels than this server accepts.")
BAD_TENSOR = Refusal(
    "bad_tensor", 422, "The input tensor does not have the declared type, shape or range."
)
TIMED_OUT = Refusal("timed_out", 408, "The request took too long to arrive.")
BUDGET_EXHAUSTED = Refusal("budget_exhausted", 429, "The query budget does not cover this request.")
RATE_LIMITED = Refusal("rate_limited", 429, "This key asks faster than it may.")
REFUSED = Refusal("refused", 500, "The answer was withheld because it failed a safety check.")
INTERNAL = Refusal("internal", 500, "The request could not be answered.")
UPSTREAM_FAILED = Refusal("upstream_failed", 502, "The model server gave no valid answer.")
OVERLOADED = Refusal(
    "overloaded", 503, "The server is busy; try again shortly.", retry_after=1, spread=2
)
DRAINING = Refusal("draining", 503, "The server is shutting down.", retry_after=5)
STORE_UNAVAILABLE = Refusal(
    "store_unavailable", 503, "The request could not be accounted for.", retry_after=5, spread=5
)
DEADLINE = Refusal("deadline", 504, "The answer was not ready in time.")
UPSTREAM_TIMEOUT = Refusal("upstream_timeout", 504, "The model server did not answer in time.")


class ServiceError(Exception):
    """A request ends here, with one of the refusals above.

    Raise it `from None`: what caused it stays inside.
    """

    def __init__(self, refusal: Refusal, *, retry_after: int | None = None) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal if retry_after is None else replace(refusal, retry_after=retry_after)


class ConfigurationError(Exception):
    """The configuration cannot be served; `faults` lists everything that is wrong with it."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def error_response(refusal: Refusal, request_id: str) -> Response:
    """The one body form of every error."""
    body = {"code": refusal.code, "message": refusal.message, "request_id": request_id}
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after + secrets.randbelow(refusal.spread + 1))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps({"error": body}), refusal.status, headers, media_type=JSON)
