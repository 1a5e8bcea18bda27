"""The one door to AWS: a client per service from the standard variables, and botocore's errors in our own words.

Nothing here knows whether the account is real: AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE> decide where calls go.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybridge_edge.contract.errors import Conflict, Refused, Unavailable, UsageError

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 70
"""Longer than the longest long poll, SQS' 20 seconds."""
ATTEMPTS = 4
_CONFLICTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "ConflictException", "412", "409"})
_BUCKET_VARIABLE = "HYBRIDGE_BUCKET"


@functools.cache
def client(service: str) -> Any:
    """A boto3 client of ``service``; one per process, safe to share between threads."""
    import boto3
    from botocore.config import Config

    make: Any = boto3.client  # its stubs know each service by a literal of its own

    configuration = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"max_attempts": ATTEMPTS, "mode": "standard"},
        # Path-style where an endpoint is given: a loopback address has no names below it.
        s3={"addressing_style": "path" if _endpoint_variable("s3") else "auto"},
    )
    with calling(service):
        return make(service, config=configuration)


def bucket_name() -> str:
    """The bucket of this installation, from HYBRIDGE_BUCKET."""
    name = os.environ.get(_BUCKET_VARIABLE, "")
    if not name:
        raise UsageError(
            f"{_BUCKET_VARIABLE} is not set.",
            'Set it to the installation\'s bucket; for the sandbox: eval "$(hybridge sandbox env)".',
        )
    return name


@contextmanager
def calling(service: str) -> Iterator[None]:
    """Turn botocore's errors into ours.

    Raises:
        Conflict: a condition did not hold. Unavailable: nobody answers, or not now. Refused: the service says no.
        UsageError: no credentials or region.
    """
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _refusal(service, error) from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.NoRegionError) as error:
        raise UsageError(
            f"Calling {service}: {error}", 'Set the AWS variables; for the sandbox: eval "$(hybridge sandbox env)".'
        ) from None
    except (aws.HTTPClientError, aws.BotoCoreError) as error:
        variable = _endpoint_variable(service)
        where = f"{variable}={os.environ[variable]}" if variable else "the region's own endpoint"
        raise Unavailable(f"{service} does not answer at {where}: {error}", "Check that it runs.") from None


def _endpoint_variable(service: str) -> str:
    specific = "AWS_ENDPOINT_URL_" + service.upper().replace("-", "_")
    return next((name for name in (specific, "AWS_ENDPOINT_URL") if os.environ.get(name)), "")


def _refusal(service: str, error: Any) -> Refused:
    details = error.response.get("Error", {})
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))[:500]
    message = f"{service} {error.operation_name}: {code}: {text}"
    if code in _CONFLICTS:
        return Conflict(message)
    if status >= 500 or code in ("Throttling", "ThrottlingException", "SlowDown", "RequestLimitExceeded"):
        return Unavailable(message, "Try again later.")
    return Refused(message)
