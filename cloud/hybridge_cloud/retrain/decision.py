"""When to train again: a pure function of counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_MINIMUM_SAMPLES = 500
DEFAULT_MINIMUM_LABELLED_SHARE = 0.5
DEFAULT_MINIMUM_DEVICES = 1
DEFAULT_MINIMUM_INTERVAL_SECONDS = 6 * 3600
DEFAULT_DEVICE_SHARE = 0.05
"""The most one device may hold of what is trained on, so that nobody's device alone can turn a model."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When there is enough to train again.

    Attributes:
        minimum_samples: new samples, after each device is capped. minimum_labelled_share: 0 to 1, of the new samples.
        minimum_devices: devices that sent new samples.
        minimum_interval_seconds: between two datasets of a model.
        device_share: the cap, 0 to 1; see `device_limit`.
    """

    minimum_samples: int = DEFAULT_MINIMUM_SAMPLES
    minimum_labelled_share: float = DEFAULT_MINIMUM_LABELLED_SHARE
    minimum_devices: int = DEFAULT_MINIMUM_DEVICES
    minimum_interval_seconds: float = DEFAULT_MINIMUM_INTERVAL_SECONDS
    device_share: float = DEFAULT_DEVICE_SHARE


@dataclass(frozen=True, slots=True)
class Counts:
    """What is new since the last dataset.

    Attributes:
        samples_by_device: new samples per device, each once. labelled: how many of them have one label.
        last_dataset_at_ms: when the last dataset was made, milliseconds since 1970, or None where there is none.
    """

    samples_by_device: Mapping[str, int]
    labelled: int
    last_dataset_at_ms: int | None

    @property
    def samples(self) -> int:
        return sum(self.samples_by_device.values())


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to train, and the sentence that says why or why not."""

    train: bool
    reason: str


def decide(counts: Counts, policy: Policy, now_ms: int) -> Decision:
    """Whether what is new is enough to train on."""
    devices = sum(1 for count in counts.samples_by_device.values() if count)
    if counts.samples == 0:
        return Decision(False, "No new samples.")
    if devices < policy.minimum_devices:
        return Decision(False, f"Samples of {devices} devices; {policy.minimum_devices} are wanted.")
    limit = device_limit(counts.samples_by_device, policy.device_share)
    usable = sum(min(count, limit) for count in counts.samples_by_device.values())
    if usable < policy.minimum_samples:
        capped = f" ({counts.samples} before each device was capped)" if usable < counts.samples else ""
        return Decision(False, f"{usable} new samples{capped}; {policy.minimum_samples} are wanted.")
    share = counts.labelled / counts.samples
    if share < policy.minimum_labelled_share:
        return Decision(
            False, f"{share:.1%} of the new samples are labelled; {policy.minimum_labelled_share:.1%} are wanted."
        )
    if counts.last_dataset_at_ms is not None:
        # A clock that was set back must not open the gate, so time never runs backwards here.
        waited = max(0, now_ms - counts.last_dataset_at_ms) / 1000
        if waited < policy.minimum_interval_seconds:
            rest = policy.minimum_interval_seconds - waited
            return Decision(False, f"The last dataset is too young: {rest:.0f} s to wait.")
    return Decision(True, f"{usable} new samples of {devices} devices, {share:.1%} labelled.")


def device_limit(samples_by_device: Mapping[str, int], share: float) -> int:
    """The most samples of one device such that no device holds more than ``share`` of what is kept; 0 where impossible.

    With fewer than 1/share devices no limit above 0 exists; who trains on fewer devices raises the share and says so.
    """
    counts = [count for count in samples_by_device.values() if count > 0]
    if share >= 1.0:
        return max(counts, default=0)
    # kept(limit)/limit never grows with the limit, so the largest limit that holds is found by bisection.
    low, high = 0, max(counts, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return low
