"""How a model component hands a package to the server: one JSON line there, one JSON line back. Format 1."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.states import Mode, PackageState

MAX_LINE_BYTES = 64 * 1024
BY_HAND = "by-hand"
"""The rollout of a hand-over that somebody on the device asks for: of none."""


def _mode(text: str) -> str:
    if text not in {mode.value for mode in Mode}:
        raise InvalidDocument(f"{text[:40]!r} is not a mode of a hand-over")
    return text


@dataclass(frozen=True, slots=True)
class Handover:
    """What a deployment wants of one model.

    Attributes:
        package: absolute path of the package's folder; read once, copied, never needed again.
        digest: the package's digest; the component was published with it.
        rollout, epoch: who asks; a higher epoch wins, an equal one is a no-op.
    """

    model: str
    package: str
    digest: str
    rollout: str
    epoch: int
    mode: Mode = Mode.ACTIVATE

    def to_line(self) -> bytes:
        return canonical(
            {
                "verb": "activate",
                "model": self.model,
                "package": self.package,
                "digest": self.digest,
                "rollout": self.rollout,
                "epoch": self.epoch,
                "mode": self.mode.value,
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> Handover:
        """Read a line of the management socket whose verb is ``activate``."""
        reader = parse(line, "hand-over", MAX_LINE_BYTES)
        if reader.text("verb") != "activate":
            raise InvalidDocument("The line is not a hand-over.")
        handover = cls(
            model=reader.text("model", check=names.model_name),
            package=reader.text("package"),
            digest=reader.text("digest", check=names.digest),
            rollout=reader.text("rollout", ""),
            epoch=reader.integer("epoch"),
            mode=Mode(reader.text("mode", "activate", check=_mode)),
        )
        reader.close()
        return handover


@dataclass(frozen=True, slots=True)
class HandoverAnswer:
    """What became of it. ``seen_before`` tells a first refusal (the deployment fails) from a repeated one.

    ``note`` says what was measured and planned, for people; where it says nothing it is not written.
    """

    state: PackageState
    model: str
    version: str
    digest: str
    epoch: int
    reason: str = ""
    seen_before: bool = False
    note: str = ""

    def to_line(self) -> bytes:
        return canonical(
            {
                "ok": True,
                "state": self.state.value,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "epoch": self.epoch,
                "reason": self.reason,
                "seen_before": self.seen_before,
                **({"note": self.note} if self.note else {}),
            }
        )
