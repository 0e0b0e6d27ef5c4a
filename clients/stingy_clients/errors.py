"""The errors of a client, in one tree. Invariant: no error shows the key.

ClientError
  * TransportError       no response: connection refused, reset or timed out
  * UnexpectedAnswer     a response that does not follow Stingy's wire format
  * BadInput             refused by the client, before anything was sent
  * ApiError             refused by the server: status, code, message, request_id, retry_after
      + AuthError        401
      + NotFound         404
      + BadImage         413, 415, 422
      + BudgetExhausted  429 with the code budget_exhausted
      + Unavailable      503, and every other 429: retry later
      + ServerError      any other 5xx
"""

from typing import Any


class ClientError(Exception):
    """The base of all client errors.

    If `predict_batch` fails, `answered` has the answers that the key had already paid for.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.answered: list[Any] = []  # of Answer, whose module imports this one


class TransportError(ClientError):
    """A request without a response. After a POST, the server may still have charged the images."""


class UnexpectedAnswer(ClientError):
    """A response that does not follow Stingy's wire format: another server, proxy or version."""


class BadInput(ClientError):
    """Input that cannot be sent. Nothing was sent and nothing was charged."""


class ApiError(ClientError):
    """A request that the server refused.

    Args:
        status: the HTTP status.
        code: the wire's error code. If a proxy responded, `http_` and the status (`http_502`).
        message: a fixed sentence.
        request_id: the id to quote to the operator. It may be empty.
        retry_after: seconds that the server wants the client to wait, or None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        # All fields are in `args`, so that the error survives pickling between processes.
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
    """401: no key, or an unknown key."""


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
