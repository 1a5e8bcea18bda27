"""Deployments: taken one at a time, prepared beside what runs, put in place in one step, judged, reported.

Up to the moment a new set is put in place a failure changes nothing. After it classic brings the previous set back when
the deployment says ROLLBACK; lite never does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hybridge_cloud.sandbox.device import artifacts, configuration, failpoint, local
from hybridge_cloud.sandbox.device.agreement import Agreements
from hybridge_cloud.sandbox.device.cloud_link import LOCAL, Cloud, Job
from hybridge_cloud.sandbox.device.components import Components, Device
from hybridge_cloud.sandbox.device.local import Folders, LocalDeployments, LocalOutcome
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_cloud.sandbox.device.resolution import Found, merge_roots, resolve
from hybridge_cloud.sandbox.device.state import Deployed, Placed, Report, StateFile, Target
from hybridge_edge import durable
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable

PREPARE_WITHIN = 60.0
"""Seconds in which a deployment tries again to reach the account; then it has FAILED."""
_RETRY_FIRST = 0.5
_CAUSE_LONGEST = 1000
"""Characters of a failure's cause in a job's details."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose components are all on the device's disk."""

    job: Job
    targets: Mapping[str, Target]
    found: Mapping[str, Found]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last deployment ended."""

    deployment: str
    arn: str
    status: str
    details: Mapping[str, str]

    @property
    def trigger(self) -> str:
        """Why a fleet status message is sent, in its words."""
        if not self.arn:
            return "LOCAL_DEPLOYMENT"
        return "THING_GROUP_DEPLOYMENT" if ":thinggroup/" in self.arn else "THING_DEPLOYMENT"


class Deployments:
    """The device's side of every deployment.

    Args:
        configured: called with a component's name, its configuration before and after.
        ended: called with each outcome.
    """

    def __init__(
        self,
        device: Device,
        state: StateFile,
        cloud: Cloud,
        components: Components,
        agreements: Agreements,
        configured: Callable[[str, configuration.Tree, configuration.Tree], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self._device = device
        self._state = state
        self._cloud = cloud
        self._components = components
        self._agreements = agreements
        self.local = LocalDeployments()
        self._asking: asyncio.Task[Job | None] | None = None
        self._configured = configured
        self._ended = ended

    async def run(self) -> None:
        """Take jobs until cancelled."""
        try:
            await self._finish()
            await self._take_all()
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def _finish(self) -> None:
        """End a local deployment that a power cut interrupted: nobody offers it again, as the cloud does its jobs."""
        state = self._state.state
        if state.job.startswith(local.PREFIX) and state.previous is not None:
            deployment = state.job.removeprefix(local.PREFIX)
            await self._judge(Job(state.job, deployment, "", {}, True), state.previous)

    async def _take_all(self) -> None:
        pause = _RETRY_FIRST
        while True:
            try:
                await self._send_report()
                job, folders = await self._next()
                pause = _RETRY_FIRST
                if job is not None:
                    await self._process(job, folders)
            except Unavailable as error:
                _log.info("%s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._device.limits.retry_longest)
            except HybridgeError as error:
                _log.warning("A job could not be taken: %s", error)
                await asyncio.sleep(self._device.limits.retry_longest)

    async def _next(self) -> tuple[Job | None, Folders]:
        """The next deployment, of the device itself or of the cloud: whichever is there first."""
        if self._asking is None:
            ask = asyncio.to_thread(self._cloud.next_job, self._device.limits.poll_seconds)
            self._asking = asyncio.create_task(ask)
        own = asyncio.create_task(self.local.next())
        try:
            await asyncio.wait([own, self._asking], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not own.done():
                own.cancel()
        if own.done() and not own.cancelled():
            return own.result()
        asked, self._asking = self._asking, None
        return await asked, Folders()

    async def _process(self, job: Job, folders: Folders) -> None:
        _log.info("Deployment %s: %s", job.deployment, {name: item.version for name, item in job.components.items()})
        failpoint.reach("deployment.taken")
        if not job.local:
            await asyncio.to_thread(self._cloud.report_job, job.id, "IN_PROGRESS", {})
        try:
            prepared = await self._prepare(job, folders)
            composed = self._compose(prepared)
            self._components.plans(composed)
            failpoint.reach("deployment.prepared")
            await self._agree(job, composed)
        except (HybridgeError, OSError) as error:
            if isinstance(error, _NotOurs):
                self._end(
                    job, "REJECTED", {"detailed-deployment-status": "REJECTED", "deployment-failure-cause": str(error)}
                )
            else:
                self._end(job, "FAILED", _failed("FAILED_NO_STATE_CHANGE", str(error)))
            return
        await self._judge(job, await self._put_in_place(prepared))

    async def _judge(self, job: Job, previous: Deployed) -> None:
        """Wait how the new set does, and end the job; ``previous`` is what may be brought back."""
        reason = await self._components.judge()
        failpoint.reach("deployment.judged")
        if not reason:
            # Before the end is on the disk: what a power cut interrupts here is done again with the job.
            await asyncio.to_thread(self._clean)
            self._end(job, "SUCCEEDED", {"detailed-deployment-status": "SUCCESSFUL"})
            failpoint.reach("deployment.ended")
        elif self._device.mode is Mode.LITE or not job.rollback:
            self._end(job, "FAILED", _failed("FAILED_ROLLBACK_NOT_REQUESTED", reason))
        else:
            await self._restore(previous)
            again = await self._components.judge()
            failpoint.reach("rollback.judged")
            status = "FAILED_UNABLE_TO_ROLLBACK" if again else "FAILED_ROLLBACK_COMPLETE"
            self._end(job, "FAILED", _failed(status, f"{reason}; {again}" if again else reason))
        self._agreements.updated(job.deployment)

    async def _agree(self, job: Job, composed: Deployed) -> None:
        """Classic: components judge their next configuration, and say whether the update must wait."""
        if self._device.mode is Mode.LITE:
            return
        old = self._state.state.current.components
        changes = {
            name: placed.configuration
            for name, placed in composed.components.items()
            if name in old
            and old[name].version == placed.version
            and configuration.changed_paths(old[name].configuration, placed.configuration)
        }
        await self._agreements.validate(job.deployment, changes, job.policy.validate_within)
        await self._agreements.ask(job.deployment, job.policy)

    async def _prepare(self, job: Job, folders: Folders) -> Prepared:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + PREPARE_WITHIN, _RETRY_FIRST
        while True:
            try:
                return await asyncio.to_thread(self._gather, job, folders)
            except Unavailable:
                if loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._device.limits.retry_longest)

    def _gather(self, job: Job, folders: Folders) -> Prepared:
        """Everything that changes nothing: groups, versions, recipes, artifacts. Blocks."""
        device, current = self._device, self._state.state.current
        if job.local:
            own = set(current.targets) | {LOCAL}  # a device that is offline deploys too
            local.bring(folders, device.layout, device.limits)
        else:
            own = {f"thinggroup/{name}" for name in self._cloud.thing_groups()} | {f"thing/{device.thing}", LOCAL}
        if job.target not in own:
            raise _NotOurs(f"The deployment is for {job.target}, which this device is not in.", "Deploy to its group.")
        roots = {name: item.version for name, item in job.components.items()}
        kept = {name: target for name, target in current.targets.items() if name in own}
        if job.local and LOCAL in kept:  # what is not named stays, as it was
            stays = {name: version for name, version in kept[LOCAL].roots.items() if name not in job.removed}
            roots = {**stays, **roots}
        targets = {**kept, job.target: Target(job.deployment, job.arn, roots)}
        brought = {
            key: text
            for key, text in local.recipes(device.layout).items()
            if job.local or (key[0] in current.components and not current.components[key[0]].targets)
        }
        found = resolve(merge_roots(targets), self._cloud, device.mode, device.limits, brought)
        for name, item in found.items():
            if (name, item.recipe.version) in brought:
                artifacts.place(item.recipe, device.layout, device.limits, device.mode)
            else:
                artifacts.fetch(item.recipe, device.layout, device.limits)
            device.layout.work(name).mkdir(parents=True, exist_ok=True)
            durable.write(device.layout.recipes / f"{name}-{item.recipe.version}.recipe", item.text, 0o644)
            failpoint.reach("recipe.written")
        return Prepared(job, targets, found)

    def _compose(self, prepared: Prepared) -> Deployed:
        """The set as it will be, from what is deployed at this moment."""
        old = self._state.state.current.components
        return Deployed(
            {name: self._placed(name, found, prepared, old.get(name)) for name, found in prepared.found.items()},
            prepared.targets,
        )

    def _placed(self, name: str, found: Found, prepared: Prepared, old: Placed | None) -> Placed:
        recipe, update = found.recipe, prepared.job.components.get(name)
        other_version = old is None or old.version != recipe.version
        tree = configuration.apply(
            None if old is None else old.configuration,
            recipe.configuration,
            None if update is None else update.merge,
            () if update is None else update.reset,
            fill=self._device.mode is Mode.LITE and other_version,
        )
        wanted_by = tuple(
            target.arn for target in prepared.targets.values() if target.arn and _reaches(target, name, prepared.found)
        )
        root = any(name in target.roots for target in prepared.targets.values())
        same = old is not None and not other_version and not configuration.changed_paths(old.configuration, tree)
        return Placed(recipe.version, tree, root, wanted_by, same and old is not None and old.installed)

    async def _put_in_place(self, prepared: Prepared) -> Deployed:
        """Stop what goes or changes, make the new set the device's, start it; return the set before it."""
        state = self._state.state
        redone = state.job == prepared.job.id and state.previous is not None
        previous = state.previous if redone and state.previous is not None else state.current
        await self._stop_for(self._compose(prepared))
        failpoint.reach("deployment.stopped")
        # Composed again: a component may have updated its own configuration while others stopped.
        new = self._compose(prepared)
        await self._commit(new, previous, prepared.job.id)
        failpoint.reach("deployment.committed")
        await self._components.start(new)
        return previous

    async def _restore(self, previous: Deployed) -> None:
        """Bring back the set before a failed deployment; what changed is installed again."""
        old = self._state.state.current.components
        changed = _changed(old, previous.components)
        restored = replace(
            previous,
            components={
                name: replace(placed, installed=placed.installed and name not in changed)
                for name, placed in previous.components.items()
            },
        )
        await self._stop_for(restored)
        failpoint.reach("rollback.stopped")
        await self._commit(restored, None, "")
        failpoint.reach("rollback.committed")
        await self._components.start(restored)

    async def _stop_for(self, new: Deployed) -> None:
        old = self._state.state.current.components
        await self._components.stop(_changed(old, new.components) & old.keys(), gone=set(old) - set(new.components))

    async def _commit(self, new: Deployed, previous: Deployed | None, job: str) -> None:
        old = self._state.state.current.components
        self._state.save(replace(self._state.state, current=new, previous=previous, job=job))
        for name, placed in new.components.items():
            if name in old:
                self._configured(name, old[name].configuration, placed.configuration)

    def _end(self, job: Job, status: str, details: Mapping[str, str]) -> None:
        _log.info("Deployment %s: %s %s", job.deployment, status, details.get("deployment-failure-cause", ""))
        report = None if job.local else Report(job.id, status, details)
        self._state.save(replace(self._state.state, previous=None, job="", report=report))
        if job.local:
            self.local.ended(job.deployment, LocalOutcome(status, details.get("deployment-failure-cause", "")))
        self._ended(Outcome(job.deployment, job.arn, status, details))

    async def _send_report(self) -> None:
        report = self._state.state.report
        if report is None:
            return
        try:
            await asyncio.to_thread(self._cloud.report_job, report.job, report.status, report.details)
            failpoint.reach("report.sent")
        except Unavailable:
            raise
        except Refused as error:
            _log.warning("The cloud does not want the report on job %s: %s", report.job, error)
        self._state.save(replace(self._state.state, report=None))

    def _clean(self) -> None:
        components = self._state.state.current.components
        artifacts.remove_others(self._device.layout, {name: {placed.version} for name, placed in components.items()})


class _NotOurs(Refused):
    """A job for a group that the device is not in."""

    code = "REJECTED"


def _failed(detail: str, cause: str) -> dict[str, str]:
    return {"detailed-deployment-status": detail, "deployment-failure-cause": cause[:_CAUSE_LONGEST]}


def _changed(old: Mapping[str, Placed], new: Mapping[str, Placed]) -> set[str]:
    """Components whose version or configuration differs, or that are new."""
    return {
        name
        for name, placed in new.items()
        if name not in old or (old[name].version, old[name].configuration) != (placed.version, placed.configuration)
    }


def _reaches(target: Target, name: str, found: Mapping[str, Found]) -> bool:
    """Whether a target's deployment wants a component, itself or through dependencies."""
    pending, seen = [root for root in target.roots if root in found], set()
    while pending:
        current = pending.pop()
        if current == name:
            return True
        seen.add(current)
        pending += [
            item.name for item in found[current].recipe.dependencies if item.name in found and item.name not in seen
        ]
    return False
