"""The status of gRPC for each code of the error table."""

from grpc import StatusCode

STATUS = {
    "bad_request": StatusCode.INVALID_ARGUMENT,
    "unauthenticated": StatusCode.UNAUTHENTICATED,
    "suspended": StatusCode.PERMISSION_DENIED,
    "not_found": StatusCode.NOT_FOUND,
    "method_not_allowed": StatusCode.UNIMPLEMENTED,
    "not_implemented": StatusCode.UNIMPLEMENTED,
    "timed_out": StatusCode.DEADLINE_EXCEEDED,
    "too_large": StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself answers to large messages
    "unsupported_image": StatusCode.INVALID_ARGUMENT,
    "unsupported_encoding": StatusCode.UNIMPLEMENTED,  # as gRPC itself answers
    "bad_image": StatusCode.INVALID_ARGUMENT,
    "bad_tensor": StatusCode.INVALID_ARGUMENT,
    "budget_exhausted": StatusCode.RESOURCE_EXHAUSTED,
    "rate_limited": StatusCode.RESOURCE_EXHAUSTED,
    "refused": StatusCode.INTERNAL,
    "internal": StatusCode.INTERNAL,
    "upstream_failed": StatusCode.UNAVAILABLE,
    "overloaded": StatusCode.UNAVAILABLE,
    "draining": StatusCode.UNAVAILABLE,
    "store_unavailable": StatusCode.UNAVAILABLE,
    "deadline": StatusCode.DEADLINE_EXCEEDED,
    "upstream_timeout": StatusCode.DEADLINE_EXCEEDED,
}
