"""The one door to AWS: a client per service from the standard variables, and botocore's errors in our own words.

Nothing here knows whether the account is real: AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE> decide where calls go.
Where S3 alone is another store than the region's, such as a Snowball Edge's, AWS_ENDPOINT_URL_S3 says where it is and
HYBRIDGE_S3_TARGET, HYBRIDGE_S3_REGION, HYBRIDGE_S3_CA_FILE and HYBRIDGE_S3_PROFILE how to speak to it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridge_edge.contract.errors import Conflict, Refused, Unavailable, UsageError
from hybridge_edge.targets import target as targets
from hybridge_edge.targets.target import STANDARD, ObjectStore

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 70
"""Longer than the longest long poll, SQS' 20 seconds."""
ATTEMPTS = 4
_CONFLICTS = frozenset(
    {
        "PreconditionFailed",
        "ConditionalRequestConflict",
        "ConflictException",
        "ResourceAlreadyExistsException",
        "412",
        "409",
    }
)
_MISSING = frozenset(
    {
        "ResourceNotFoundException",
        "PipelineNotFoundException",
        "PipelineExecutionNotFoundException",
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "NoSuchKey",
        "NoSuchBucket",
        "NotFound",
        "404",
    }
)
_SET_THEM = 'Set the AWS variables; for the sandbox: eval "$(hybridge sandbox env)".'
_BUCKET_VARIABLE = "HYBRIDGE_BUCKET"
_S3_TARGET, _S3_REGION = "HYBRIDGE_S3_TARGET", "HYBRIDGE_S3_REGION"
_S3_CA_FILE, _S3_PROFILE = "HYBRIDGE_S3_CA_FILE", "HYBRIDGE_S3_PROFILE"
_KEPT_CLIENTS = 64
_MAX_REASON = 500
_given: ContextVar[Mapping[str, str] | None] = ContextVar("_given", default=None)


class NotFound(Refused):
    """The service knows no such thing."""

    code = "NOT_FOUND"


@contextmanager
def using(environment: Mapping[str, str]) -> Iterator[None]:
    """Have every call of this thread, for the length of a ``with``, go by these variables instead of the process' own.

    Args:
        environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL..., HYBRIDGE_BUCKET.
    """
    token = _given.set(dict(environment))
    try:
        yield
    finally:
        _given.reset(token)


def _environment() -> Mapping[str, str]:
    given = _given.get()
    return os.environ if given is None else given


def client(service: str) -> Any:
    """A boto3 client of ``service``; one per process and environment, safe to share between threads."""
    ours = ("AWS_", "HYBRIDGE_S3_")
    variables = tuple(sorted((name, value) for name, value in _environment().items() if name.startswith(ours)))
    return _client(service, variables, _given.get() is not None)


@functools.lru_cache(maxsize=_KEPT_CLIENTS)
def _client(service: str, variables: tuple[tuple[str, str], ...], given: bool) -> Any:
    import boto3
    from botocore.config import Config

    # A session of its own: boto3's default one keeps the environment it was made in.
    # Its stubs know each service by a literal of its own.
    make: Any = boto3.session.Session().client
    explicit: dict[str, str | None] = {}
    named = dict(variables)
    if given:
        make = boto3.session.Session(
            aws_access_key_id=named.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=named.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=named.get("AWS_SESSION_TOKEN"),
            region_name=named.get("AWS_REGION") or named.get("AWS_DEFAULT_REGION"),
        ).client
        explicit = {"endpoint_url": named.get(_endpoint_variable(service))}

    configuration = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"max_attempts": ATTEMPTS, "mode": "standard"},
        # Path-style where an endpoint is given: a loopback address has no names below it.
        s3={"addressing_style": "path" if _endpoint_variable("s3") else "auto"},
    )
    with calling(service):
        if service == "s3":
            configuration = configuration.merge(Config(**_of_store(object_store())))
            explicit |= _s3_options(named)
            if named.get(_S3_PROFILE):
                make = boto3.session.Session(profile_name=named[_S3_PROFILE]).client
        try:
            return make(service, config=configuration, **explicit)
        except ValueError as error:  # botocore's own for an endpoint that is no URL
            raise UsageError(f"Calling {service}: {str(error).rstrip('.')}.", _SET_THEM) from None


def _of_store(store: ObjectStore) -> dict[str, Any]:
    """botocore's options for what a store takes."""
    if store == STANDARD:
        return {}
    # Without this, botocore sends a checksum behind the content, in chunks, which a Snowball Edge does not take.
    checksums = "when_supported" if store.checksums == "sha256" else "when_required"
    options: dict[str, Any] = {"request_checksum_calculation": checksums, "response_checksum_validation": checksums}
    return options if store.addressing == "auto" else {**options, "s3": {"addressing_style": store.addressing}}


def _s3_options(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Options of an S3 client that are no other service's: region, and whose certificates are trusted."""
    options: dict[str, str | None] = {}
    if region := object_store().region:
        options["region_name"] = region
    if authorities := variables.get(_S3_CA_FILE):
        if not Path(authorities).is_file():
            raise UsageError(f"{_S3_CA_FILE} names {authorities[:200]!r}, which is no file.", "Correct the path.")
        options["verify"] = authorities
    return options


def object_store() -> ObjectStore:
    """What the S3 of this environment takes. Raises UsageError where HYBRIDGE_S3_TARGET is no target."""
    target = _environment().get(_S3_TARGET, "")
    store = targets.named(target).object_store if target else STANDARD
    region = _environment().get(_S3_REGION, "")
    return replace(store, region=region) if region else store


def call(service: str, operation: str, /, **parameters: Any) -> Any:
    """Call one operation (boto3's method name and parameters) and return boto3's answer. Raises as ``calling`` does."""
    with calling(service):
        return getattr(client(service), operation)(**parameters)


def pages(service: str, operation: str, key: str, /, **parameters: Any) -> list[Any]:
    """Every item under ``key`` of a listing operation, over all its pages. Raises as ``calling`` does."""
    with calling(service):
        paginator = client(service).get_paginator(operation)
        return [item for page in paginator.paginate(**parameters) for item in page.get(key, [])]


def bucket_name() -> str:
    """The bucket of this installation, from HYBRIDGE_BUCKET."""
    name = _environment().get(_BUCKET_VARIABLE, "")
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
        NotFound: the service knows no such thing. Conflict: it exists, or a condition did not hold.
        Unavailable: nobody answers, or not now. Refused: the service says no.
        UsageError: no credentials or region, or a name, profile or endpoint that cannot be one.
    """
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _refusal(service, error) from None
    except (
        aws.NoCredentialsError,
        aws.PartialCredentialsError,
        aws.NoRegionError,
        aws.ProfileNotFound,
        aws.InvalidRegionError,
        aws.InvalidEndpointConfigurationError,
    ) as error:
        raise UsageError(f"Calling {service}: {str(error).rstrip('.')}.", _SET_THEM) from None
    except aws.ParamValidationError as error:
        raise UsageError(f"Calling {service}: {_one_line(error)}.", "Correct the name that was given.") from None
    except aws.SSLError as error:
        trusted = _S3_CA_FILE if service == "s3" else "AWS_CA_BUNDLE"
        raise Refused(
            f"The certificate of {_where(service)} is not trusted: {_one_line(error)}.",
            f"Name the certificate of whoever answers there in {trusted}, a PEM file.",
        ) from None
    except (aws.HTTPClientError, aws.BotoCoreError) as error:
        where = _where(service)
        raise Unavailable(f"{service} does not answer at {where}: {_one_line(error)}.", "Check that it runs.") from None


def _endpoint_variable(service: str) -> str:
    service = {"iot-data": "iot-data-plane"}.get(service, service)
    specific = "AWS_ENDPOINT_URL_" + service.upper().replace("-", "_")
    return next((name for name in (specific, "AWS_ENDPOINT_URL") if _environment().get(name)), "")


def _where(service: str) -> str:
    variable = _endpoint_variable(service)
    return f"{variable}={_environment()[variable]}" if variable else "the region's own endpoint"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_REASON].rstrip(".")


def _refusal(service: str, error: Any) -> Refused:
    details = error.response.get("Error", {})
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))[:_MAX_REASON]
    message = f"{service} {error.operation_name}: {code}: {text.rstrip('.')}."
    if code in _MISSING:
        return NotFound(message, "Check the name, the region and the account.")
    if code in _CONFLICTS:
        return Conflict(message)
    if status >= 500 or code in ("Throttling", "ThrottlingException", "SlowDown", "RequestLimitExceeded"):
        return Unavailable(message, "Try again later.")
    return Refused(message)
