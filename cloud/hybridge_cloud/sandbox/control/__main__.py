"""Run the control service: ``python -m hybridge_cloud.sandbox.control --dir SANDBOX [--buildspecs FOLDER]``.

Its endpoints and credentials come from the environment, as for any AWS client.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette

from hybridge_cloud.sandbox import things
from hybridge_cloud.sandbox.control import app
from hybridge_cloud.sandbox.control.account import Account
from hybridge_cloud.sandbox.control.components import Components
from hybridge_cloud.sandbox.control.cores import Cores
from hybridge_cloud.sandbox.control.deployments import Deployments
from hybridge_cloud.sandbox.control.executor import Executor
from hybridge_cloud.sandbox.control.jobs import JobsService
from hybridge_cloud.sandbox.control.pipelines import Pipelines
from hybridge_cloud.sandbox.control.store import Store
from hybridge_cloud.sandbox.control.wire import Service
from hybridge_cloud.sandbox.device.mqtt_link import Broker
from hybridge_cloud.sandbox.folder import HOST, SandboxFolder

THREADS = 64
CLOSE_SECONDS = 3
BUILDSPECS = Path(__file__).resolve().parents[3] / "infra" / "buildspecs"


def main() -> int:
    parser = argparse.ArgumentParser(prog="control")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--buildspecs", type=Path, default=BUILDSPECS)
    options = parser.parse_args()
    folder = SandboxFolder(options.dir)
    state = folder.read()
    if state is None:
        print(f"control: {folder.root} is not a sandbox; run 'hybridge sandbox up'.", file=sys.stderr)
        return 1
    store, account, bell = Store(folder.control), Account(), app.Bell()
    components = Components(store, account)

    def changed() -> None:
        bell.ring()
        jobs.ring()

    def identify() -> Broker | None:
        home = folder.root / "jobs"
        home.mkdir(mode=0o700, exist_ok=True)
        things.identify(state.ports, home, things.JOBS)
        return Broker.read(home / "mqtt.json")

    deployments = Deployments(store, account, components, changed)
    cores = Cores(store, account)
    jobs = JobsService(deployments, cores, identify)
    executor = Executor(store, account, folder, options.buildspecs)
    greengrass = Service("greengrassv2", {**components.handlers(), **deployments.handlers(), **cores.handlers()})
    pipelines = Service("codepipeline", Pipelines(store, executor.wake).handlers())
    application = app.build(greengrass, pipelines, deployments, cores, bell)

    @asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        await anyio.to_thread.run_sync(executor.recover)
        jobs.start()
        yield
        await anyio.to_thread.run_sync(jobs.close)
        await anyio.to_thread.run_sync(executor.stop)

    application.router.lifespan_context = lifespan
    uvicorn.run(
        application,
        host=HOST,
        port=state.ports.control,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
