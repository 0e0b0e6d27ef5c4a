"""Everything a client can raise, in one tree; no error ever shows the key.

ClientError
  * TransportError       no answer came: refused, reset, timed out
  * UnexpectedAnswer     an answer came, but not one of Stingy's wire
  * BadInput             refused here, before anything was sent
  * ApiError             the server refused: status, code, message, request_id, retry_after
      + AuthError        401
      + NotFound         404
      + BadImage         413, 415, 422
      + BudgetExhausted  429 with the code budget_exhausted
      + Unavailable      503, and every other 429: ask again later
      + ServerError      any other 5xx
"""

from typing import Any


class ClientError(Exception):
    """Base of all. `answered` holds what `predict_batch` had already bought when it failed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.answered: list[Any] = []  # of Answer, which raises these errors itself


class TransportError(ClientError):
    """No answer came. After a POST the images may have been charged all the same."""


class UnexpectedAnswer(ClientError):
    """The answer does not follow Stingy's wire: another server, a proxy, another version."""


class BadInput(ClientError):
    """What was handed over cannot be sent; nothing was sent and nothing charged."""


class ApiError(ClientError):
    """The server refused.

    `status` is the HTTP status, `code` the wire's error code (`http_502` where a proxy answered),
    `message` a fixed sentence, `request_id` what to quote to the operator (may be empty),
    `retry_after` the seconds the server asked to wait, or None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        # All fields are `args`, so that the error survives pickling between processes.
        super().__init__(status, code, message, request_id, retry_after)
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.code}: {self.message}{request}"


class AuthError(ApiError):
    """401: no key, or a key the server does not know."""


class NotFound(ApiError):
    """404: no such model."""


class BadImage(ApiError):
    """413, 415, 422: the server refused the image or the tensor."""


class BudgetExhausted(ApiError):
    """429: the key's budget does not cover this request. Never retried."""


class Unavailable(ApiError):
    """503, or 429 for another reason than the budget: busy, draining, too many requests."""


class ServerError(ApiError):
    """Any other 5xx: refused by the gate, past the deadline, or an internal fault."""
