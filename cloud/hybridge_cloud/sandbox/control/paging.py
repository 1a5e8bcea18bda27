"""Pages of a listing: ``maxResults`` and ``nextToken``, which hides an offset."""

from __future__ import annotations

import base64
import binascii

from hybridge_cloud.sandbox.control.wire import Document, ServiceError

DEFAULT_PAGE = 100


def page(entries: list[Document], request: Document, member: str, error: str = "ValidationException") -> Document:
    """The asked-for page of ``entries`` as ``{member: [...], "nextToken"?}``.

    Raises:
        ServiceError: the token is none of ours.
    """
    try:
        start = int(base64.urlsafe_b64decode(request["nextToken"])) if "nextToken" in request else 0
    except (binascii.Error, ValueError):
        raise ServiceError(error, "nextToken is not valid.") from None
    end = start + int(request.get("maxResults", DEFAULT_PAGE))
    answer: Document = {member: entries[start:end]}
    if end < len(entries):
        answer["nextToken"] = base64.urlsafe_b64encode(str(end).encode()).decode()
    return answer
