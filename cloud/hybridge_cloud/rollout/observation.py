"""What a controller saw of the account at one time: the rings' latest revisions and every device's own reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridge_cloud.aws.greengrass import InstalledComponent
from hybridge_edge.contract.report import ModelReport


@dataclass(frozen=True, slots=True)
class Revision:
    """A ring's latest deployment, and what it asks of the rollout's model.

    Attributes:
        deployment: its id, "" where the ring never had one.
        version: of the model's component, "" where it is not named.
        rollout, epoch: from the ``hybridge`` configuration merged into that component; "" and 0 where there is none. A
            component that is no model carries none: there they are from what the deployment is (`look.asked_of`).
        cancelled: whether it was withdrawn. mode: what the model's devices are asked to do with it.
        ours: whether Hybridge wrote it, by whatever command.
    """

    deployment: str
    version: str
    rollout: str
    epoch: int
    cancelled: bool = False
    ours: bool = True
    mode: str = "activate"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device of the fleet.

    Attributes:
        online: whether it is connected, as far as the account knows.
        last_report_ms: when its last report came, by the account's clock, Unix time; 0 where it never reported.
        taken: whether it began or ended a deployment that carries what the rollout last asked of its ring.
        failed: why Greengrass says that this deployment failed there, "" where it does not.
        succeeded: whether Greengrass says that it succeeded there, which means "handed over".
        reports: its last report's entries of the rollout's model: what serves, and what was refused. Of every model,
            where a component is rolled out.
        component: the component that is rolled out, as the device's nucleus last told; None where it has none.
        update_failed: why Greengrass says that the wave's own deployment failed there, whatever was asked since.
        reports_due: whether a server of ours is among what its ring is asked for, so that it must report.
    """

    thing: str
    ring: int
    online: bool
    last_report_ms: int
    taken: bool = False
    failed: str = ""
    reports: tuple[ModelReport, ...] = ()
    succeeded: bool = False
    component: InstalledComponent | None = None
    update_failed: str = ""
    reports_due: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """Devices now in the fleet, and the latest revision by ring; a ring that could not be read is left out."""

    devices: tuple[DeviceView, ...]
    revisions: Mapping[int, Revision] = field(default_factory=dict)

    def view(self, thing: str) -> DeviceView | None:
        return next((device for device in self.devices if device.thing == thing), None)
