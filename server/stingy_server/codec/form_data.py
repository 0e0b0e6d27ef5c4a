"""The one file of a form, as `curl -F data=@FILE` sends it (RFC 7578).

The whole body is in memory already, so a search finds the file. Parsers for streams copy each byte
several times. Nothing else of a form is read.
"""

import re

from stingy_server.errors import NO_FORM_FILE, ServiceError

FORM = "multipart/form-data"
FIELD = "data"
MOST_PARTS = 16
MOST_HEAD_BYTES = 4096  # of one part
LINE, HEAD_END = b"\r\n", b"\r\n\r\n"
BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
NAME = re.compile(
    rb'^content-disposition:\s*form-data\s*;(?:[^\r\n]*?;)??\s*name=(?:"([^"]*)"|([^\s;"]+))',
    re.IGNORECASE | re.MULTILINE,
)


def is_form(content_type: bytes) -> bool:
    """Return whether a body of this type is a form."""
    return content_type.partition(b";")[0].strip().lower() == FORM.encode()


def read_form_file(body: bytes, content_type: bytes) -> bytes:
    """Return the content of the field `data`.

    Args:
        content_type: the header of the body, with its boundary.

    Raises:
        ServiceError: bad_request, if the form is malformed, has more than `MOST_PARTS` parts, or
            does not have the field exactly once.
    """
    boundary = BOUNDARY.search(content_type)
    delimiter = b"--" + (boundary[1] or boundary[2]) if boundary else b""
    if not delimiter or not body.startswith(delimiter):
        raise ServiceError(NO_FORM_FILE)
    found: list[slice] = []
    at = len(delimiter)
    for _ in range(MOST_PARTS):
        head_end = body.find(HEAD_END, at, at + MOST_HEAD_BYTES)
        start = head_end + len(HEAD_END)
        stop = body.find(LINE + delimiter, start)
        if not body.startswith(LINE, at) or head_end < 0 or stop < 0:
            break
        name = NAME.search(body, at, head_end)
        if name is not None and (name[1] or name[2]) == FIELD.encode():
            found.append(slice(start, stop))
        at = stop + len(LINE) + len(delimiter)
        if body.startswith(b"--", at) and len(found) == 1:
            return body[found[0]]
    raise ServiceError(NO_FORM_FILE)
