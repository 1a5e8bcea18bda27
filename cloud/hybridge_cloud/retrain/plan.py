"""How a model is retrained: a document in S3, named by its content, that a pipeline hands to its builds. Format 1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.retrain.decision import DEFAULT_DEVICE_SHARE
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse, sha256
from hybridge_edge.contract.errors import Conflict, Refused, UsageError
from hybridge_edge.contract.trust_document import TrustDocument

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
DEFAULT_SUSPECT_SHARE = 0.05
"""A dataset is refused that shows more labels than this to contradict their neighbours."""
_KEY = re.compile(r"plans/([0-9a-f]{64})\.json")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is retrained.

    Attributes:
        project: key of the project's zip. fleet: whose champion is challenged. trust: what that fleet's trust file
            says, as text; the champion must be signed by it, and the challenger will be.
        split: of the project's data. seed: of the training, -1 for the project's own.
        device_share: the most one device may give. suspect_share: the most labels that may contradict their neighbours.
        minimum_gain: what the lower end of the comparison's interval must exceed.
    """

    project: str
    fleet: str
    trust: str
    split: int = 0
    seed: int = -1
    device_share: float = DEFAULT_DEVICE_SHARE
    suspect_share: float = DEFAULT_SUSPECT_SHARE
    minimum_gain: float = 0.0

    @property
    def believed(self) -> TrustDocument:
        return TrustDocument.from_bytes(self.trust.encode())

    def to_bytes(self) -> bytes:
        return canonical({"format": FORMAT, **{name: getattr(self, name) for name in self.__slots__}})

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read a plan, or raise InvalidDocument with the field and the reason."""
        reader = parse(data, "retraining plan")
        reader.format(FORMAT)
        plan = cls(
            project=reader.text("project"),
            fleet=reader.text("fleet", check=names.fleet_name),
            trust=reader.text("trust"),
            split=reader.integer("split"),
            seed=reader.integer("seed", minimum=-1),
            device_share=reader.number("device_share"),
            suspect_share=reader.number("suspect_share"),
            minimum_gain=reader.number("minimum_gain"),
        )
        reader.close()
        return plan


def store(bucket: Bucket, plan: Plan) -> str:
    """Write a plan and return its key, ``plans/SHA256.json``."""
    data = Plan.from_bytes(plan.to_bytes()).to_bytes()  # what could not be read again is refused here
    key = f"plans/{sha256(data).removeprefix('sha256:')}.json"
    try:
        bucket.put(key, data, only_if_absent=True)
    except Conflict:
        pass  # the same name is the same content
    return key


def fetch(bucket: Bucket, key: str) -> Plan:
    """Read a plan. Raises UsageError where ``key`` is not one's, Refused where it was altered."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(f"{key[:200]!r} is not the key of a retraining plan.", "Create the pipeline again.")
    data = bucket.get(key)
    if sha256(data) != f"sha256:{match[1]}":
        raise Refused(f"The retraining plan {key} was altered.", "Create the pipeline again.")
    return Plan.from_bytes(data)
