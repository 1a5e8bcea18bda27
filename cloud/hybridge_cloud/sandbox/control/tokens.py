"""Client tokens: the same request sent twice takes effect once, and gets the same answer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable

from hybridge_cloud.sandbox.control.recipes import token_text
from hybridge_cloud.sandbox.control.store import TOKEN_SECONDS, Store, moment, now
from hybridge_cloud.sandbox.control.wire import Document, ServiceError

_STAMP = "creationTimestamp"


def once(store: Store, operation: str, request: Document, work: Callable[[Document], Document]) -> Document:
    """Do ``work`` unless this client token did it already.

    Raises:
        ServiceError: the token came before with another request.
    """
    token = request.get("clientToken")
    if token is None:
        return work(request)
    text = token_text({key: value for key, value in request.items() if key != "clientToken"})
    with store.transaction():
        store.execute("DELETE FROM tokens WHERE created < ?", now() - TOKEN_SECONDS)
        known = store.row("SELECT * FROM tokens WHERE operation = ? AND token = ?", operation, token)
        if known is not None:
            if known["request"] != text:
                raise ServiceError(
                    "ConflictException",
                    "The client token was used with another request.",
                    resourceId=token,
                    resourceType="ClientToken",
                )
            answer: Document = json.loads(known["answer"])
            return {key: moment(value) if key == _STAMP else value for key, value in answer.items()}
        answer = work(request)
        kept = {
            key: value.timestamp() if isinstance(value, datetime.datetime) else value for key, value in answer.items()
        }
        store.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?)", operation, token, text, json.dumps(kept), now())
        return answer
