"""The HTTP face of the control service: two AWS services and the few paths local core devices use."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybridge_cloud.sandbox.control.cores import Cores
from hybridge_cloud.sandbox.control.deployments import Deployments
from hybridge_cloud.sandbox.control.wire import Answer, Service, ServiceError, invalid

BODY_LIMIT_BYTES = 4 << 20
WAIT_LIMIT_SECONDS = 60.0
MEMBERSHIP_TICK_SECONDS = 1.0
"""How often a waiting device's group membership is looked at again; a new deployment wakes it at once."""


class Bell:
    """Wakes waiting devices, from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()

    def ring(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._swing)

    def _swing(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return


def build(greengrass: Service, pipelines: Service, deployments: Deployments, cores: Cores, bell: Bell) -> Starlette:
    """The ASGI application over ready-made parts."""

    async def amazon(request: Request) -> Response:
        body = await request.body()
        if len(body) > BODY_LIMIT_BYTES:
            return Response("request too large", 413)
        raw_path = request.scope["raw_path"].decode("ascii").partition("?")[0]
        for service in (pipelines, greengrass):
            found = service.find(request.method, raw_path, request.headers.get("x-amz-target", ""))
            if found is not None:
                operation, path = found
                query = request.query_params.multi_items()
                return _response(await run_in_threadpool(service.call, operation, path, query, body))
        what = f"{request.method} {raw_path} {request.headers.get('x-amz-target', '')}".strip()
        return _response(
            greengrass.failure(ServiceError("UnknownOperationException", f"The sandbox does not serve {what}."))
        )

    async def ready(_request: Request) -> Response:
        return JSONResponse({"ready": True})

    async def thing_groups(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(cores.thing_groups, request.path_params["thing"]))

    async def next_job(request: Request) -> Response:
        try:
            wait = min(float(request.query_params.get("wait", "0")), WAIT_LIMIT_SECONDS)
        except ValueError:
            return _response(greengrass.failure(invalid("wait is not a number of seconds.")))
        end = time.monotonic() + wait
        while True:
            job = await run_in_threadpool(deployments.next_job, request.path_params["thing"])
            left = end - time.monotonic()
            if job is not None:
                return JSONResponse(job)
            if left <= 0 or await request.is_disconnected():
                return Response(status_code=204)
            await bell.wait(min(left, MEMBERSHIP_TICK_SECONDS))

    async def job_status(request: Request) -> Response:
        def take(document: dict[str, Any]) -> str:
            thing, job = request.path_params["thing"], request.path_params["job"]
            return deployments.report(thing, job, str(document.get("status")), document.get("statusDetails") or {})

        try:
            status = await run_in_threadpool(take, await _json(request))
        except ServiceError as error:
            return _response(greengrass.failure(error))
        return JSONResponse({"status": status})

    async def health(request: Request) -> Response:
        try:
            await run_in_threadpool(cores.report, request.path_params["thing"], await _json(request))
        except ServiceError as error:
            return _response(greengrass.failure(error))
        return JSONResponse({})

    async def account_gone(_request: Request, error: Exception) -> Response:
        # A 500 makes boto3, and a device, try again: the keeper starts an account that died within seconds.
        return _response(
            greengrass.failure(ServiceError("InternalServerException", f"The embedded account did not answer: {error}"))
        )

    device = "/sandbox/coreDevices/{thing}"
    return Starlette(
        exception_handlers={BotoCoreError: account_gone, ClientError: account_gone},
        routes=[
            Route("/sandbox/ready", ready),
            Route(f"{device}/jobs/next", next_job),
            Route(f"{device}/jobs/{{job}}", job_status, methods=["POST"]),
            Route(f"{device}/health", health, methods=["POST"]),
            Route("/greengrass/v2/coreDevices/{thing}/thingGroups", thing_groups),
            Route("/{path:path}", amazon, methods=["GET", "POST", "PUT", "DELETE"]),
        ],
    )


async def _json(request: Request) -> dict[str, Any]:
    body = await request.body()
    if len(body) > BODY_LIMIT_BYTES:
        raise invalid("The request is too large.")
    try:
        document = await request.json()
    except ValueError:
        raise invalid("The request's body is not JSON.") from None
    if not isinstance(document, dict):
        raise invalid("The request's body is not a JSON object.")
    return document


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
