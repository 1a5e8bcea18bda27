"""Names both sides must agree on: models, components, S3 keys, topics.

S3 keys start with what a policy can grant by prefix: a device may write only ``devices/THING/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybridge_edge.contract.errors import InvalidName

DEFAULT_PREFIX = "hybridge"
"""The first part of every component's name; configurable, so that a company can use its own."""

_MODEL = re.compile(r"[a-z0-9-]{1,64}")
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")  # AWS IoT CreateThing, thingName
_FLEET = re.compile(r"[a-zA-Z0-9:_-]{1,120}")  # a thing group name of at most 128, less the ring's suffix
_PREFIX = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*")
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
_COMPONENT = re.compile(r"(?=.{1,128}$)[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)+")  # Greengrass, ComponentName; ours have a dot
_ROLLOUT = re.compile(r"(?=.{1,192}$)[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*-\d{1,9}\.\d{1,9}\.\d{1,9}-[1-9]\d{0,5}")
_SAMPLE = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
RINGS = 4


def model_name(name: str) -> str:
    """Return ``name`` if it may name a model ([a-z0-9-], 1 to 64 characters), else raise InvalidName."""
    return _checked(_MODEL, name, "model name", "Use 1 to 64 of a-z, 0-9 and '-'.")


def component_name(name: str) -> str:
    """Return ``name`` if it may be a component's full name (with a dot, so no model's), else raise InvalidName."""
    return _checked(_COMPONENT, name, "component name", "Write it in full, such as hybridge.InferenceServer.")


def thing_name(name: str) -> str:
    """Return ``name`` if AWS IoT allows it for a thing, else raise InvalidName."""
    return _checked(_THING, name, "device name", "Use 1 to 128 of letters, digits, ':', '_' and '-'.")


def fleet_name(name: str) -> str:
    """Return ``name`` if it may name a fleet (a thing group, less the ring's suffix), else raise InvalidName."""
    return _checked(_FLEET, name, "fleet name", "Use 1 to 120 of letters, digits, ':', '_' and '-'.")


def version(text: str) -> str:
    """Return ``text`` if it is MAJOR.MINOR.PATCH (semver.org, no pre-release), else raise InvalidName."""
    return _checked(_VERSION, text, "version", "Write MAJOR.MINOR.PATCH, such as 1.0.0.")


def version_key(text: str) -> tuple[int, int, int]:
    """The order of versions: (major, minor, patch)."""
    major, minor, patch = version(text).split(".")
    return int(major), int(minor), int(patch)


def rollout_id(text: str) -> str:
    """Return ``text`` if it may name a rollout (NAME-VERSION-NUMBER), else raise InvalidName."""
    return _checked(_ROLLOUT, text, "rollout id", "See the ids: hybridge rollout list --fleet FLEET")


def sample_id(text: str) -> str:
    """Return ``text`` if it may name a sample, else raise InvalidName."""
    return _checked(_SAMPLE, text, "sample id", "Use 1 to 128 of letters, digits and '._:/-'.")


def digest(text: str) -> str:
    """Return ``text`` if it is ``sha256:`` and 64 hexadecimal digits, else raise InvalidName."""
    return _checked(_SHA256, text, "digest", "Write sha256: and 64 lower-case hexadecimal digits.")


def _checked(pattern: re.Pattern[str], text: object, what: str, remedy: str) -> str:
    if not isinstance(text, str) or pattern.fullmatch(text) is None:
        raise InvalidName(f"{str(text)[:80]!r} is not a valid {what}.", remedy)
    return text


def ring_group(fleet: str, ring: int) -> str:
    """The thing group of a fleet's ring, 0 to 3: ``FLEET-r0``."""
    if not 0 <= ring < RINGS:
        raise InvalidName(f"Ring {ring} does not exist.", f"A fleet has rings 0 to {RINGS - 1}.")
    return f"{fleet_name(fleet)}-r{ring}"


@dataclass(frozen=True, slots=True)
class ComponentNames:
    """The Greengrass components of one installation, under a prefix of its own."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        _checked(_PREFIX, self.prefix, "component prefix", "Use letters, digits, '_', '-', with dots between parts.")

    @property
    def inference_server(self) -> str:
        return f"{self.prefix}.InferenceServer"

    @property
    def sensor_pipeline(self) -> str:
        return f"{self.prefix}.SensorPipeline"

    @property
    def sample_uplink(self) -> str:
        return f"{self.prefix}.SampleUplink"

    def model(self, name: str) -> str:
        """The component that carries a model's packages: ``PREFIX.model.NAME``."""
        return f"{self.prefix}.model.{model_name(name)}"


# S3 keys, all in one bucket.


def component_artifact_key(component: str, component_version: str, file: str) -> str:
    return f"components/{component}/{version(component_version)}/{file}"


def package_key(model: str, package_version: str, file: str) -> str:
    return f"packages/{model_name(model)}/{version(package_version)}/{file}"


def registry_key(model: str, package_version: str) -> str:
    return f"registry/{model_name(model)}/{version(package_version)}.json"


def fleet_key(fleet: str) -> str:
    return f"fleets/{fleet_name(fleet)}.json"


def batch_data_key(thing: str, model: str, stem: str) -> str:
    return f"devices/{thing_name(thing)}/data/{model_name(model)}/{stem}.npz"


def batch_manifest_key(thing: str, model: str, stem: str) -> str:
    """Written last: the object whose presence commits the batch."""
    return f"devices/{thing_name(thing)}/batches/{model_name(model)}/{stem}.json"


def parse_batch_manifest_key(key: str) -> tuple[str, str, str] | None:
    """``(thing, model, stem)`` of a batch manifest's key, or None for any other key."""
    parts = key.split("/")
    if len(parts) != 5 or parts[0] != "devices" or parts[2] != "batches" or not parts[4].endswith(".json"):
        return None
    if _THING.fullmatch(parts[1]) is None or _MODEL.fullmatch(parts[3]) is None:
        return None
    return parts[1], parts[3], parts[4].removesuffix(".json")


def returned_labels_key(thing: str, model: str, stem: str) -> str:
    """Labels that were said on a device, as the uplink brings them."""
    return f"devices/{thing_name(thing)}/labels/{model_name(model)}/{stem}.jsonl"


def parse_returned_labels_key(key: str) -> tuple[str, str] | None:
    """``(thing, model)`` of such a key, or None for any other key."""
    parts = key.split("/")
    if len(parts) != 5 or parts[0] != "devices" or parts[2] != "labels" or not parts[4].endswith(".jsonl"):
        return None
    if _THING.fullmatch(parts[1]) is None or _MODEL.fullmatch(parts[3]) is None:
        return None
    return parts[1], parts[3]


def labels_prefix(model: str) -> str:
    return f"labels/{model_name(model)}/"


def label_data_key(model: str, stem: str) -> str:
    """Labels as JSON lines, named by their digest."""
    return f"{labels_prefix(model)}data/{stem}.jsonl"


def label_manifest_key(model: str, stem: str) -> str:
    """Written last: the object whose presence commits an import of labels, named by the digest of what it lists."""
    return f"{labels_prefix(model)}imports/{stem}.json"


def label_rule_key(model: str) -> str:
    """Which labels of a model count."""
    return f"{labels_prefix(model)}rule.json"


def dataset_prefix(model: str) -> str:
    return f"datasets/{model_name(model)}/"


def dataset_key(model: str, number: int) -> str:
    """``datasets/MODEL/NNNNNN.json``: numbered, so that a conditional put decides who writes the next one."""
    return f"{dataset_prefix(model)}{number:06d}.json"


def run_key(model: str, run: str, file: str) -> str:
    return f"runs/{model_name(model)}/{run}/{file}"


def rollouts_prefix(fleet: str) -> str:
    return f"rollouts/{fleet_name(fleet)}/"


def rollout_key(fleet: str, rollout: str, file: str) -> str:
    """``rollouts/FLEET/ID/FILE``: ``plan.json`` commits the rollout, ``state.json`` says where it stands."""
    return f"{rollouts_prefix(fleet)}{rollout_id(rollout)}/{file}"


def rollout_audit_key(fleet: str, rollout: str, number: int) -> str:
    """``rollouts/FLEET/ID/audit/NNNNNN.json``."""
    return rollout_key(fleet, rollout, f"audit/{number:06d}.json")


def rollout_claim_key(fleet: str, name: str) -> str:
    """Names the rollout that holds a model, or a component by its full name, of a fleet.

    No rollout's id is ``claims``: an id ends with a number.
    """
    held = component_name(name) if "." in name else model_name(name)
    return f"{rollouts_prefix(fleet)}claims/{held}.json"


def lease_key(group: str) -> str:
    """``leases/GROUP.json``: who may write a thing group's next deployment, and which was written last."""
    return f"leases/{_checked(_THING, group, 'thing group name', 'Name a ring, such as FLEET-r0.')}.json"


# MQTT topics.


def shadow_update_topic(thing: str) -> str:
    """The named shadow ``hybridge`` (AWS IoT, reserved shadow topics)."""
    return f"$aws/things/{thing_name(thing)}/shadow/name/hybridge/update"


def telemetry_topic(thing: str) -> str:
    return f"hybridge/{thing_name(thing)}/telemetry"


def results_topic(thing: str) -> str:
    return f"hybridge/{thing_name(thing)}/results"


def windows_topic(thing: str) -> str:
    return f"sensors/{thing_name(thing)}/windows"
