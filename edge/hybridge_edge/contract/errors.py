"""Every error that Hybridge raises on purpose.

    HybridgeError                 something a person or a program can act on
    ├── UsageError                the command was called wrongly                       exit code 2
    └── Refused                   the command was right and the answer is no           exit code 1
        ├── InvalidDocument       a manifest, sample, batch or report cannot be read
        ├── InvalidName           a model, fleet, device or component name is not allowed
        ├── PackageRefused        a package is altered, unsigned, unknown or fails its own golden inputs
        ├── InvalidInput          tensors of a request do not fit the model's signature
        ├── ModelNotFound         no such model, or no such version resident
        ├── Overloaded            a bounded queue is full: try again later
        ├── Cancelled             the caller has gone
        ├── DeadlineExceeded      the caller's time was up, or a run took longer than it may
        ├── PermissionDenied      asked over a transport that may not ask it
        ├── Unimplemented         a verb or a feature of the protocol that this server does not have
        ├── SequenceLost          a sequence does not run here (any more): start it again
        ├── SpoolFull             the disk or the spool's limit is reached
        ├── Unavailable           a server, broker or account does not answer
        └── Conflict              the thing exists already with other content

An error carries its data as attributes, says in one sentence what was wrong and where, and in ``remedy`` what to do.
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "HybridgeError",
    "InvalidDocument",
    "InvalidInput",
    "InvalidName",
    "ModelNotFound",
    "Overloaded",
    "PackageRefused",
    "PermissionDenied",
    "Refused",
    "SequenceLost",
    "SpoolFull",
    "Unavailable",
    "Unimplemented",
    "UsageError",
]


class HybridgeError(Exception):
    """The root of the tree.

    Args:
        message: one sentence: what was wrong, and where.
        remedy: one sentence: what to do about it, or "" where nothing can be done.
    """

    code = "ERROR"
    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(HybridgeError):
    """The command was called wrongly."""

    code = "USAGE"
    exit_code = 2


class Refused(HybridgeError):
    """The call was understood and the answer is no."""

    code = "REFUSED"


class InvalidDocument(Refused):
    """A document of the contract cannot be read."""

    code = "INVALID_DOCUMENT"


class InvalidName(Refused):
    """A name is not allowed where it stands."""

    code = "INVALID_NAME"


class PackageRefused(Refused):
    """A package is altered, unsigned, not for this device, or fails its own golden inputs.

    Args:
        step: the step of activation that refused it: verify, lint, install, trial, load, golden, warm-up, budget or
            probes.
    """

    code = "PACKAGE_REFUSED"

    def __init__(self, message: str, remedy: str = "", *, step: str = "verify") -> None:
        super().__init__(message, remedy)
        self.step = step


class InvalidInput(Refused):
    """Tensors of a request do not fit the model's signature."""

    code = "INVALID_ARGUMENT"


class ModelNotFound(Refused):
    """No such model, or no such version resident."""

    code = "NOT_FOUND"


class Overloaded(Refused):
    """A bounded queue is full."""

    code = "RESOURCE_EXHAUSTED"


class Cancelled(Refused):
    """The caller has gone before its turn came; nobody reads this but the counters."""

    code = "CANCELLED"


class DeadlineExceeded(Refused):
    """The caller's time was up before its turn came, or a run was stopped because it took longer than it may."""

    code = "DEADLINE_EXCEEDED"


class PermissionDenied(Refused):
    """Asked over a transport that may not ask it."""

    code = "PERMISSION_DENIED"


class Unimplemented(Refused):
    """A verb or a feature of the protocol that this server does not have."""

    code = "UNIMPLEMENTED"


class SequenceLost(Refused):
    """A sequence does not run here: it never began, or its state is gone. It has to be started again."""

    code = "ABORTED"


class SpoolFull(Refused):
    """The disk, or the spool's own limit, is reached; nothing was written."""

    code = "SPOOL_FULL"


class Unavailable(Refused):
    """A server, broker or account does not answer."""

    code = "UNAVAILABLE"


class Conflict(Refused):
    """The thing exists already with other content."""

    code = "CONFLICT"
